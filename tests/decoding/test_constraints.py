"""Phrases that hypotheses must hold: held to a slow reference, to brute force and to beam search."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import constrained_beam_search, every_hypothesis, holds, sides, tiny_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError

V = 9
model = cache(tiny_model)
tokens = st.integers(4, V - 1)


def generate(config, sources, constraints, prefixes=None, forbidden=(), seed=2, vocabulary=V):
    generator = Generator([model(seed, vocabulary)], config, sides, loaded={"forbidden": forbidden})
    return list(generator.generate(sources, prefixes, constraints=constraints))


def assert_same(found, expected):
    assert [h.ids for h in found] == [ids for ids, _, _ in expected]
    for h, (_, score, values) in zip(found, expected, strict=True):
        assert h.score == pytest.approx(score, abs=1e-9)
        assert h.token_log_probabilities == pytest.approx(values, abs=1e-9)


@st.composite
def configs(draw):
    beam_size = draw(st.integers(1, 6))
    return DecodeConfig(
        beam_size=beam_size,
        n_best=beam_size,
        length_penalty=draw(st.sampled_from([0.0, 1.0])),
        no_repeat_ngram=draw(st.sampled_from([0, 0, 1, 2])),
        min_length_b=draw(st.integers(0, 3)),
        max_length_a=draw(st.sampled_from([0.0, 1.0])),
        max_length_b=draw(st.integers(1, 7)),
        stopping=draw(st.sampled_from(["first_finished", "best_possible", "exhaustive"])),
        slots=draw(st.sampled_from([1, 2, None])),
    )


phrase = st.lists(tokens, min_size=1, max_size=3)
sentence = st.tuples(st.lists(tokens, min_size=1, max_size=6), st.lists(phrase, max_size=3),
                     st.lists(tokens, max_size=2))  # fmt: skip


@given(configs(), st.integers(0, 9), st.lists(sentence, min_size=1, max_size=4), st.lists(phrase, max_size=1))
@settings(max_examples=120, deadline=None)
def test_constrained_search_agrees_with_the_slow_reference(config, seed, sentences, forbidden):
    sources, constraints, prefixes = map(list, zip(*sentences, strict=True))
    found = generate(config, sources, constraints, prefixes, forbidden, seed)
    rule = replace(config, stopping="exhaustive" if config.stopping == "best_possible" else config.stopping)
    for n_best, source, some, prefix in zip(found, sources, constraints, prefixes, strict=True):
        distinct = [list(p) for p in dict.fromkeys(map(tuple, some))]
        expected = constrained_beam_search([model(seed, V)], source, rule, distinct, prefix, forbidden)
        assert_same(n_best, expected)
        assert [h.unmet for h in n_best] == [sum(not holds(h.ids, p) for p in some) for h in n_best]


@pytest.mark.parametrize("stopping", ["first_finished", "best_possible", "exhaustive"])
def test_constraints_that_fit_are_all_met(stopping):
    config = DecodeConfig(n_best=3, stopping=stopping, max_length_a=1, max_length_b=6)
    sources = [[4, 5, 6], [8, 8], [7, 4, 4, 4], [5]] * 3
    constraints = [[[8, 8, 7], [5]], [[4, 5], [5, 4]], [], [[6], [7], [8, 4]]] * 3
    results = []
    for slots in (1, 2, 5, None):
        found = generate(replace(config, slots=slots, batch_tokens=100), sources, constraints)
        results.append([[(h.ids, round(h.score, 9)) for h in n_best] for n_best in found])
        for n_best, some in zip(found, constraints, strict=True):
            assert n_best
            assert all(holds(h.ids, p) for h in n_best for p in some)
            assert not any(h.unmet for h in n_best)
    assert all(result == results[0] for result in results)
    # What overlaps counts for both: 4 5 4.
    assert any(holds(ids, [4, 5, 4]) for ids, _ in results[0][1])


def test_a_beam_that_covers_everything_finds_the_best_that_hold_the_phrases():
    config = DecodeConfig(beam_size=60, n_best=5, stopping="exhaustive", max_length_a=0, max_length_b=3)
    some = [[5, 6], [6]]
    expected = [h for h in every_hypothesis([model(1, 7)], [4, 6], replace(config, n_best=99)) if holds(h[0], [5, 6])]
    assert len(expected) == 7  # alone, and with a token before it or after it
    assert_same(generate(config, [[4, 6]], [some], seed=1, vocabulary=7)[0], expected[:5])


def test_a_sentence_whose_constraints_cannot_be_met_has_the_hypotheses_that_lack_the_fewest():
    config = DecodeConfig(n_best=5, max_length_a=0, max_length_b=4)
    (n_best,) = generate(config, [[4, 5]], [[[5, 6, 7, 8, 4], [8], [7, 7]]])
    assert n_best
    for h in n_best:
        assert h.unmet == 1
        assert holds(h.ids, [8])
        assert holds(h.ids, [7, 7])
        assert h.truncated


def test_without_phrases_it_is_beam_search():
    config = DecodeConfig(n_best=4, max_length_a=1, max_length_b=4)
    sources = [[4, 5, 6], [8], [7, 7, 4]]
    plain = generate(config, sources, None)
    mixed = generate(config, [*sources, [4, 4]], [[], [], [], [[6]]])
    for one, two in zip(plain, mixed, strict=False):
        assert [h.ids for h in one] == [h.ids for h in two]
        assert [h.score for h in one] == pytest.approx([h.score for h in two], abs=1e-9)


def test_what_constraints_cannot_be_with_is_a_users_mistake():
    for options in ({"search": "sample"}, {"search": "stochastic_beam"}, {"beam_size": 4, "diverse_groups": 2}):
        with pytest.raises(UserError, match=r"constraints=: does not go with decode\.(search|diverse_groups)="):
            generate(DecodeConfig(**options), [[4]], [[[5]]])
