"""Rules of what hypotheses may hold: held to the slow search, on random ragged inputs, whatever the slots."""

from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import beam_search, collate, holds, sides, tiny_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.decoding.setting import Sides
from s2s.text.vocabulary import EOS

V = 8
model = cache(tiny_model)
tokens = st.integers(4, V - 1)


def generate(models, config, sources, prefixes=None, forbidden=()):
    return list(Generator(models, config, sides, loaded={"forbidden": list(forbidden)}).generate(sources, prefixes))


def assert_same(found, expected):
    assert [hypothesis.ids for hypothesis in found] == [ids for ids, _, _ in expected]
    for hypothesis, (_, score, values) in zip(found, expected, strict=True):
        assert hypothesis.score == pytest.approx(score, abs=1e-9)
        assert hypothesis.token_log_probabilities == pytest.approx(values, abs=1e-9)


@st.composite
def configs(draw):
    beam_size = draw(st.integers(1, 5))
    return DecodeConfig(
        beam_size=beam_size,
        n_best=beam_size,
        no_repeat_ngram=draw(st.integers(0, 3)),
        min_length_b=draw(st.sampled_from([0, 1, 6])),
        max_length_a=draw(st.sampled_from([0.0, 1.0])),
        max_length_b=draw(st.integers(3, 8)),
        stopping=draw(st.sampled_from(["first_finished", "exhaustive"])),
        allow_unknown=draw(st.booleans()),
        slots=draw(st.sampled_from([1, 2, None])),
    )


pairs = st.tuples(st.lists(tokens, min_size=1, max_size=6), st.lists(tokens, max_size=3))
phrases = st.lists(st.lists(tokens, min_size=1, max_size=3), max_size=4)


@given(configs(), st.integers(0, 9), st.lists(pairs, min_size=1, max_size=5), phrases)
@settings(max_examples=60, deadline=None)
def test_masks_agree_with_the_slow_reference(config, seed, pairs, forbidden):
    models = [model(seed, V)]
    sources, prefixes = [source for source, _ in pairs], [prefix for _, prefix in pairs]
    found = generate(models, config, sources, prefixes, forbidden)
    for n_best, source, prefix in zip(found, sources, prefixes, strict=True):
        assert_same(n_best, beam_search(models, source, config, prefix, forbidden))


@given(configs(), st.integers(0, 9), st.lists(pairs, min_size=1, max_size=5), st.sets(tokens, min_size=1, max_size=3))
@settings(max_examples=12, deadline=None)
def test_a_prefix_of_one_word_is_closed(config, seed, pairs, closing):
    models = [model(seed, V)]
    sources, prefixes = [source for source, _ in pairs], [prefix for _, prefix in pairs]
    mask = np.isin(np.arange(V), [*closing, EOS])
    found = list(Generator(models, config, Sides(collate, closing=mask)).generate(sources, prefixes))
    for n_best, source, prefix in zip(found, sources, prefixes, strict=True):
        assert_same(n_best, beam_search(models, source, config, prefix, closing=closing))


@pytest.mark.parametrize("search", ["beam", "sample", "stochastic_beam"])
def test_no_ngram_comes_twice_and_no_forbidden_phrase_at_all(search):
    config = DecodeConfig(search=search, n_best=5, no_repeat_ngram=2, max_length_a=0, max_length_b=14, min_length_b=6)
    sources, forbidden = [[4, 5], [6, 6, 7], [7]] * 3, [[5], [6, 4], [7, 7, 4]]
    seen = {}
    for slots in (1, 2, None):
        found = generate([model(2, V)], replace(config, slots=slots), sources, forbidden=forbidden)
        seen[slots] = [[hypothesis.ids for hypothesis in n_best] for n_best in found]
        for ids in (ids for n_best in seen[slots] for ids in n_best):
            grams = list(pairwise(ids))
            assert len(grams) == len(set(grams))
            assert not any(holds(ids, phrase) for phrase in forbidden)
    assert seen[1] == seen[2] == seen[None]
    assert seen[1] != [[h.ids for h in n] for n in generate([model(2, V)], config, sources)]


@pytest.mark.parametrize("search", ["beam", "sample", "stochastic_beam"])
def test_a_hypothesis_that_cannot_go_on_ends_below_the_minimum_length(search):
    config = DecodeConfig(search=search, n_best=3, no_repeat_ngram=1, min_length_b=30, max_length_b=40)
    for hypothesis in generate([model(1, V)], config, [[4, 5]])[0]:
        assert sorted(hypothesis.ids) == [4, 5, 6, 7]
        assert not hypothesis.truncated
        assert torch.tensor(hypothesis.token_log_probabilities).isfinite().all()


def test_log_probabilities_stay_those_of_the_model():
    config = DecodeConfig(n_best=5, no_repeat_ngram=1, max_length_b=4)
    generator = Generator([model(2, V)], config, sides, loaded={"forbidden": [[5]]})
    (n_best,) = generator.generate([[4, 6]])
    for hypothesis in n_best:
        (scored,) = generator.score([[4, 6]], [hypothesis.ids])
        assert hypothesis.token_log_probabilities == pytest.approx(scored.token_log_probabilities, abs=1e-9)
