"""Joint decoding is held to a slow reference with the textbook recursion, CTC alone to brute force."""

import math
from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_ctc import ctc_frames, joint_beam_search, tiny_joint, totals
from slow_search import collate, score, sides, tiny_model
from test_beam_search import assert_same, configs, ragged

from s2s.backends.prepare import has_kernels
from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.errors import UserError

V = 9
model = cache(tiny_joint)
tokens = st.integers(4, V - 1)


def generate(config, sources, prefixes=None, *, models=None, **options):
    return list(Generator(models or [model(1)], config, sides).generate(sources, prefixes, **options))


@given(configs(), st.floats(0.01, 0.99), st.integers(0, 9), st.lists(st.lists(tokens, min_size=2, max_size=6),
       min_size=1, max_size=4), st.booleans(), st.sampled_from([0, 2]))  # fmt: skip
@settings(max_examples=60)
def test_joint_decoding_agrees_with_the_slow_reference(config, w, seed, sources, forced, ngram):
    config = replace(config, ctc_weight=w, no_repeat_ngram=ngram)
    prefixes = [source[:1] if forced else [] for source in sources]
    found = generate(config, sources, prefixes, models=[model(seed)])
    rule = "exhaustive" if config.stopping == "best_possible" else config.stopping
    slow = replace(config, stopping=rule)
    for n_best, source, prefix in zip(found, sources, prefixes, strict=True):
        assert_same(n_best, joint_beam_search([model(seed)], source, slow, prefix))


@pytest.mark.parametrize("beam_size", [1, 4])
@pytest.mark.parametrize("w", [0.3, 1.0])
def test_a_sentence_has_the_same_result_alone_in_any_batch_and_in_any_order(beam_size, w):
    config = DecodeConfig(beam_size=beam_size, n_best=beam_size, max_length_a=1, max_length_b=4, ctc_weight=w)
    sources = ragged(40)
    alone = [generate(config, [source])[0] for source in sources]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5)).tolist()
    for batch_tokens in (1, 90, 10**6):
        config = replace(config, batch_tokens=batch_tokens)
        together = generate(config, sources)
        shuffled = dict(zip(order, generate(config, [sources[i] for i in order]), strict=True))
        for i in range(40):
            expected = [(h.ids, h.score, h.token_log_probabilities) for h in alone[i]]
            assert_same(together[i], expected)
            assert_same(shuffled[i], expected)


@pytest.mark.parametrize("slots", [1, 3])
def test_joint_decoding_with_and_without_kernels(slots):
    results = {}
    single = tiny_joint(2, 40).float()
    sources = [source for source in ragged(20, seed=3) if source]
    for backend in ("eager", "native"):
        config = DecodeConfig(backend=backend, n_best=5, slots=slots, ctc_weight=0.4, max_length_a=1, max_length_b=3)
        generator = Generator([single], config, sides)
        assert generator.setting.scorer.native == (backend == "native")
        results[backend] = list(generator.generate(sources))
    for mine, expected in zip(results["native"], results["eager"], strict=True):
        assert [h.ids for h in mine] == [h.ids for h in expected]
        for one, other in zip(mine, expected, strict=True):
            assert one.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)


@given(st.lists(st.lists(tokens, min_size=1, max_size=4), min_size=1, max_size=4), st.integers(0, 9))
@settings(max_examples=15)
def test_ctc_alone_finds_the_most_probable_hypotheses(sources, seed):
    config = DecodeConfig(ctc_weight=1.0, beam_size=60, n_best=4)
    for source, n_best in zip(sources, generate(config, sources, models=[model(seed)]), strict=True):
        x = ctc_frames(model(seed), source)
        possible = {ids: v for ids, v in totals(x, range(V)).items() if not {1, 2, 3} & {*ids}}
        assert [tuple(h.ids) for h in n_best] == sorted(possible, key=lambda ids: -possible[ids])[:4]
        for one in n_best:
            assert one.score == one.log_probability == pytest.approx(possible[tuple(one.ids)], abs=1e-9)
            assert sum(one.token_log_probabilities) == pytest.approx(one.score, abs=1e-9)


def test_scores_of_a_narrow_search_are_those_of_all_alignments():
    source, config = [4, 5, 6, 7], DecodeConfig(ctc_weight=1.0, beam_size=2, n_best=2)
    expected = totals(ctc_frames(model(3), source), range(V))
    for one in generate(config, [source], models=[model(3)])[0]:
        assert one.score == pytest.approx(expected[tuple(one.ids)], abs=1e-9)


@pytest.mark.parametrize("w", [0.0, 0.3, 1.0])
def test_given_targets_are_scored(w):
    sources, targets = [[4, 5, 6, 7], [8, 8, 4]], [[4, 5], [6]]
    config = DecodeConfig(ctc_weight=w)
    found = list(Generator([model(1)], config, sides).score(sources, targets))
    for source, target, one in zip(sources, targets, found, strict=True):
        attention, ctc = sum(score([model(1)], source, target)), totals(ctc_frames(model(1), source), range(V))
        assert one.log_probability == pytest.approx((1 - w) * attention + w * ctc[tuple(target)], abs=1e-9)
        assert one.score == pytest.approx(one.log_probability / (1 if w == 1 else len(target) + 1), abs=1e-9)


def test_the_weight_of_a_model_where_none_is_said():
    plain, both = tiny_model(1, V), model(1)
    alone = tiny_joint(1)
    alone.decoder = None
    cases = [([plain], 0), ([both], 0.3), ([alone], 1), ([both, both], 0)]
    assert [Generator(models, DecodeConfig(), sides).ctc_weight for models, _ in cases] == [w for _, w in cases]


def test_what_does_not_go_together():
    plain, both, alone = tiny_model(1, V), model(1), tiny_joint(1)
    alone.decoder = None
    cases = [
        ([plain], {"ctc_weight": 0.3}, "has no CTC"),
        ([alone], {"ctc_weight": 0.3}, "without a decoder has CTC alone"),
        ([both, both], {"ctc_weight": 0.3}, "CTC scores belong to one model"),
        ([both], {"search": "sample"}, "does not go with decode.search=sample; .*; decode.ctc_weight=0 leaves CTC out"),
        ([both], {"diverse_groups": 5}, "decode.diverse_groups=5: CTC scores the candidates of a single beam"),
        ([both], {"speculative": "input", "beam_size": 1}, "decode.speculative"),
        ([both], {"ctc_weight": 1.0, "no_repeat_ngram": 2}, "decode.no_repeat_ngram=2: does not go with CTC alone"),
        (
            [alone],
            {"coverage_penalty": 1.0},
            r"decode.coverage_penalty=1: does not go with CTC alone .*; it goes with decode.search=beam$",
        ),
    ]
    for models, options, message in cases:
        with pytest.raises(UserError, match=message):
            Generator(models, DecodeConfig(**options), sides)
    with pytest.raises(UserError, match="alignment=true"):
        Generator([alone], DecodeConfig(), sides, alignment=True)
    with pytest.raises(UserError, match="prefix=: does not go with CTC alone"):
        generate(DecodeConfig(ctc_weight=1.0), [[4, 5]], [[4]])
    with pytest.raises(UserError, match="constraints="):
        generate(DecodeConfig(), [[4, 5]], constraints=[[[4]]])
    ((failed,),) = generate(DecodeConfig(), [[4, 5]], [[6, 6, 7]])  # the same one needs a blank between
    assert "prefix of 3 tokens: CTC cannot align them with 3 frames" in str(failed.error)


def test_a_hypothesis_that_must_be_longer_than_the_frames_ends_with_them():
    config = DecodeConfig(ctc_weight=0.5, min_length_b=9, max_length_b=20)
    for source in ([4], [5, 6]):
        (best, *_) = generate(config, [source])[0]
        assert 1 <= len(best.ids) <= len(source) + 1  # EOS of the source is a frame too
        assert math.isfinite(best.score)


def test_limits_of_length_count_the_encoder_s_positions_of_a_recording():
    class Halved(type(model(1))):
        def memory_length(self, length):
            return length // 2

    plain, half = tiny_joint(1), tiny_joint(1)
    half.__class__ = Halved
    for one, most in ((plain, 8), (half, 4)):
        config = DecodeConfig(ctc_weight=0.0, max_length_a=1.0, max_length_b=0, min_length_b=8)
        recordings = Sides(collate, seconds=0.01)
        ((found, *_),) = Generator([one], config, recordings).generate([[4] * 8])
        assert len(found.ids) == most


def test_ctc_corrects_what_a_decoder_repeats():
    """The decoder prefers to say 4 again and again; what was said is 4 5."""
    frames = torch.full((1, 6, V), -8.0)
    for t, label in enumerate([4, 0, 0, 5, 0, 0]):
        frames[0, t, label] = 0

    class Repeating(type(model(1))):
        def ctc_log_probabilities(self, memory):
            return frames.log_softmax(2).double()

        def step(self, tokens, state, output=None):
            state.begin()
            state.advance()
            logits = torch.full((len(tokens), V), -4.0).double()
            logits[:, 4], logits[:, 5] = 0, -1
            return logits

    one = tiny_joint(1)
    one.__class__ = Repeating
    found = {w: generate(DecodeConfig(ctc_weight=w), [[4] * 5], models=[one])[0][0] for w in (0.0, 0.5)}
    assert found[0.0].truncated
    assert set(found[0.0].ids) == {4}
    assert found[0.5].ids == [4, 5]


def test_an_empty_source():
    assert generate(DecodeConfig(ctc_weight=1.0), [[], [4]])[0][0].ids == []


def test_ctc_alone_with_and_without_kernels():
    one, sources = tiny_joint(2, 40).float(), [source for source in ragged(20, seed=3) if source]
    results = {}
    for backend in ("eager", "native"):
        config = DecodeConfig(backend=backend, n_best=5, slots=3, ctc_weight=1.0)
        results[backend] = generate(config, sources, models=[one])
        assert has_kernels(one, backend) == (backend == "native")
    for mine, expected in zip(results["native"], results["eager"], strict=True):
        assert [h.ids for h in mine] == [h.ids for h in expected]
        for found, other in zip(mine, expected, strict=True):
            assert found.token_log_probabilities == pytest.approx(other.token_log_probabilities, abs=1e-4)


def test_decoding_by_ctc_alone_is_ended_between_batches():
    seen = []

    def tick():
        seen.append(1)
        if len(seen) == 3:
            raise KeyError

    config, sources = DecodeConfig(ctc_weight=1.0, slots=1), [[4], [5], [6], [7]]
    with pytest.raises(KeyError):
        list(Generator([model(1)], config, sides, tick=tick).generate(sources))
    assert len(seen) == 3
