"""Diverse beam search is held to a slow reference, and its first group to beam search."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import diverse_beam_search, sides, tiny_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError

V = 9
model = cache(tiny_model)
tokens = st.integers(4, V - 1)


def generate(config, sources, prefixes=None, forbidden=(), seed=2):
    return list(
        Generator([model(seed, V)], config, sides, loaded={"forbidden": list(forbidden)}).generate(sources, prefixes)
    )


def hypotheses(results):
    return [[(h.ids, round(h.score, 9)) for h in n_best] for n_best in results]


@st.composite
def configs(draw):
    groups, size = draw(st.integers(2, 4)), draw(st.integers(1, 3))
    return DecodeConfig(
        beam_size=groups * size,
        n_best=groups * size,
        diverse_groups=groups,
        diverse_strength=draw(st.sampled_from([0.0, 0.3, 2.0])),
        no_repeat_ngram=draw(st.sampled_from([0, 2])),
        min_length_b=draw(st.integers(0, 3)),
        max_length_a=0.5,
        max_length_b=draw(st.integers(1, 5)),
        length_penalty=draw(st.sampled_from([0.0, 1.0])),
        stopping=draw(st.sampled_from(["first_finished", "best_possible", "exhaustive"])),
        slots=draw(st.sampled_from([1, 2, None])),
    )


@given(configs(), st.integers(0, 9), st.lists(st.tuples(st.lists(tokens, min_size=1, max_size=6),
       st.lists(tokens, max_size=2)), min_size=1, max_size=4))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_diverse_beam_search_agrees_with_the_slow_reference(config, seed, pairs):
    sources, prefixes = [source for source, _ in pairs], [prefix for _, prefix in pairs]
    found = generate(config, sources, prefixes, [[5, 6]], seed)
    rule = "exhaustive" if config.stopping == "best_possible" else config.stopping
    for n_best, source, prefix in zip(found, sources, prefixes, strict=True):
        expected = diverse_beam_search([model(seed, V)], source, replace(config, stopping=rule), prefix, [[5, 6]])
        # Two groups may find one hypothesis: such ones are in no order.
        assert sorted(h.ids for h in n_best) == sorted(ids for ids, _, _ in expected)
        by_ids = {tuple(ids): (score, values) for ids, score, values in expected}
        for h in n_best:
            score, values = by_ids[tuple(h.ids)]
            assert h.score == pytest.approx(score, abs=1e-9)
            assert h.token_log_probabilities == pytest.approx(values, abs=1e-9)
        assert [h.score for h in n_best] == pytest.approx(sorted((h.score for h in n_best), reverse=True), abs=1e-9)


@pytest.mark.parametrize("stopping", ["first_finished", "exhaustive"])
def test_the_first_group_is_beam_search_and_the_others_differ(stopping):
    config = DecodeConfig(beam_size=6, n_best=6, diverse_groups=3, diverse_strength=20.0, max_length_b=3,
                          stopping=stopping)  # fmt: skip
    sources = [[4, 5, 6], [7], [8, 8, 4, 4], [6, 5]]
    plain = hypotheses(generate(replace(config, beam_size=2, n_best=2, diverse_groups=1), sources))
    for alone, grouped in zip(plain, hypotheses(generate(config, sources)), strict=True):
        assert set(map(str, alone)) <= set(map(str, grouped))
        # With so strong a penalty the second group starts with other tokens than the first.
        assert {ids[0] for ids, _ in grouped} - {ids[0] for ids, _ in alone}


def test_strength_makes_diverse():
    distinct = []
    for strength in (0.0, 0.5, 5.0):
        config = DecodeConfig(beam_size=6, n_best=6, diverse_groups=6, diverse_strength=strength, max_length_b=4)
        distinct.append(
            len({str(ids) for n_best in hypotheses(generate(config, [[4, 5], [6, 7]])) for ids, _ in n_best})
        )
    assert distinct[0] == 2  # six times the greedy hypothesis of each
    assert distinct[0] < distinct[1] <= distinct[2]


def test_groups_that_do_not_fit_are_a_users_mistake():
    with pytest.raises(UserError, match=r"decode.diverse_groups=2: must divide decode.beam_size=5"):
        DecodeConfig(diverse_groups=2).check()
    with pytest.raises(
        UserError,
        match=r"decode.diverse_groups=2: does nothing with decode.search=sample; it goes with decode.search=beam",
    ):
        DecodeConfig(search="sample", diverse_groups=2).check()
