"""Noise for denoising: what is hidden and what is written give the text again, in the amounts asked for."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data.noises.bart import Bart, BartConfig
from s2s.data.noises.mass import Mass, MassConfig
from s2s.data.noises.noise import MODES
from s2s.data.noises.spans import Spans, SpansConfig
from s2s.data.noises.ul2 import Ul2, Ul2Config
from s2s.errors import UserError
from s2s.text.vocabulary import SPECIALS, Vocabulary

MARKS = [f"<extra_id_{number}>" for number in range(30)]
LETTERS = [chr(ord("a") + number) for number in range(20)]
VOCABULARY = Vocabulary([*SPECIALS, *LETTERS, "\u2581."]).with_reserved(["<mask>", *MODES, *MARKS])
MASK, STOP = VOCABULARY.reserved["<mask>"], VOCABULARY.index("\u2581.")
SENTINELS = [VOCABULARY.reserved[mark] for mark in MARKS]
TEXTS = st.lists(st.integers(4, 24), min_size=1, max_size=120).map(lambda ids: np.array(ids, np.int64))
SEEDS = st.integers(0, 10_000)
NONE = {"permute_sentences": 0.0, "ratio": 0.0}


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def filled(source, target) -> list[int]:
    """The text: each sentinel of the source replaced by what follows it in the target."""
    hidden, current = {}, None
    for token in target:
        if token in SENTINELS:
            current = hidden.setdefault(token, [])
        else:
            current.append(token)
    return [own for token in source for own in (hidden[token] if token in SENTINELS else [token])]


@given(TEXTS, SEEDS, st.sampled_from([0.15, 0.5, 0.9]), st.sampled_from([1.0, 3.0, 20.0]))
@settings(deadline=None)
def test_spans_and_what_is_left_are_the_text(ids, seed, ratio, span):
    noise = Spans(SpansConfig(ratio=ratio, span=span), VOCABULARY)
    source, target = noise(ids, rng(seed))
    assert filled(source.tolist(), target.tolist()) == ids.tolist()
    marks = [token for token in source.tolist() if token in SENTINELS]
    assert marks == SENTINELS[: len(marks)] == [token for token in target.tolist() if token in SENTINELS]
    assert [len(source), len(target)] == [int(side[0]) for side in noise.most(np.array([len(ids)]))]
    assert not any(a in SENTINELS and b in SENTINELS for a, b in itertools.pairwise(source.tolist()))


def test_spans_have_the_numbers_of_the_paper():
    """512 tokens: round(512 * 0.15) = 77 of them in round(77 / 3) = 26 spans."""
    source, target = Spans(SpansConfig(), VOCABULARY)(np.full(512, 5), rng())
    assert len(source) == 512 - 77 + 26
    assert len(target) == 77 + 26


@given(TEXTS, SEEDS)
@settings(deadline=None)
def test_a_masked_fragment_is_the_target(ids, seed):
    noise = Mass(MassConfig(random=0.0, keep=0.0), VOCABULARY)
    source, target = noise(ids, rng(seed))
    (places,) = np.nonzero(source == MASK)
    assert len(places) == len(target) == max(1, round(len(ids) / 2))
    assert places[-1] - places[0] + 1 == len(places)
    assert ids[places].tolist() == target.tolist()
    assert np.delete(source, places).tolist() == np.delete(ids, places).tolist()


def test_a_share_of_the_fragment_is_random_or_stays():
    ids = np.tile(np.arange(4, 24), 1000)
    source, target = Mass(MassConfig(ratio=1.0), VOCABULARY)(ids, rng())
    assert target.tolist() == ids.tolist()
    assert abs((source == MASK).mean() - 0.8) < 0.01
    assert abs((source == ids).mean() - (0.1 + 0.1 / 21)) < 0.01


@given(TEXTS, SEEDS)
@settings(deadline=None)
def test_a_mixture_of_denoisers_hides_parts_of_the_text(ids, seed):
    noise = Ul2(Ul2Config(), VOCABULARY)
    source, target = noise(ids, rng(seed))
    assert source[0] in noise.modes.values()
    assert filled(source[1:].tolist(), target.tolist()) == ids.tolist()
    most = [int(side[0]) for side in noise.most(np.array([len(ids)]))]
    assert len(source) <= most[0]
    assert len(target) <= most[1]


def test_each_denoiser_is_as_likely():
    noise, ids = Ul2(Ul2Config(), VOCABULARY), np.arange(4, 24)
    modes = [int(noise(ids, rng(seed))[0][0]) for seed in range(3000)]
    shares = [modes.count(noise.modes[mode]) / 3000 for mode in MODES]
    assert np.allclose(shares, [2 / 7, 1 / 7, 4 / 7], atol=0.03)
    last = next(noise(ids, rng(seed)) for seed in range(3000) if modes[seed] == noise.modes["<S>"])
    assert last.source.tolist() == [noise.modes["<S>"], *ids[:15], SENTINELS[0]]
    assert last.target.tolist() == [SENTINELS[0], *ids[15:]]


@given(TEXTS, SEEDS, st.sampled_from([1, 0, -1]))
@settings(deadline=None)
def test_infilling_masks_spans(ids, seed, replace_length):
    config = BartConfig(permute_sentences=0.0, replace_length=replace_length)
    source, target = Bart(config, VOCABULARY)(ids, rng(seed))
    assert target.tolist() == ids.tolist()
    assert len(source) <= len(ids)
    kept = [token for token in source.tolist() if token != MASK]
    assert len(kept) == len(ids) - round(0.3 * len(ids))
    rest = iter(ids.tolist())
    assert all(token in rest for token in kept)  # in their order
    if replace_length == -1:
        assert len(source) == len(ids)


def test_infilled_spans_have_poisson_lengths():
    """Of the mean 3, those of no tokens among them."""
    ids = np.full(100_000, 5)
    source, _ = Bart(BartConfig(permute_sentences=0.0), VOCABULARY)(ids, rng())
    masks = (source == MASK).sum()
    assert abs(30_000 / masks - 3.0) < 0.05  # spans of no tokens have a mask, too
    one = Bart(BartConfig(permute_sentences=0.0, random=0.5), VOCABULARY)(ids, rng())[0]
    assert abs((one == MASK).sum() / masks - 0.5) < 0.02


def test_sentences_are_permuted_texts_are_rotated_and_tokens_are_deleted():
    ids = np.array([4, 5, STOP, 6, STOP, 7, 8, 9])
    orders = {tuple(Bart(BartConfig(ratio=0.0), VOCABULARY)(ids, rng(seed))[0]) for seed in range(100)}
    parts = [(4, 5, STOP), (6, STOP), (7, 8, 9)]
    assert orders == {(*parts[a], *parts[b], *parts[3 - a - b]) for a in range(3) for b in range(3) if a != b}
    turned = {tuple(Bart(BartConfig(**NONE, rotate=1.0), VOCABULARY)(ids, rng(seed))[0]) for seed in range(100)}
    assert turned == {tuple(np.roll(ids, by)) for by in range(len(ids))}
    assert Bart(BartConfig(**NONE), VOCABULARY)(ids, rng())[0].tolist() == ids.tolist()
    long = np.full(10_000, 5)
    assert abs(len(Bart(BartConfig(**NONE, delete=0.2), VOCABULARY)(long, rng())[0]) - 8000) < 200


@pytest.mark.parametrize("kind", [Bart, Spans, Mass, Ul2])
def test_a_vocabulary_without_the_symbols_is_refused(kind):
    with pytest.raises(UserError, match=r"requires the reserved symbol <\S+>; make the store with s2s-preprocess"):
        kind(kind.Config(), Vocabulary([*SPECIALS, *LETTERS]))
