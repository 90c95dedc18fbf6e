"""A search that can produce only what a list allows: held to a slow reference and to brute force."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_search import beam_search, normalised, score, sides, tiny_model

from s2s.decoding.config import DecodeConfig
from s2s.decoding.generator import Generator
from s2s.errors import UserError

V = 9
model = cache(tiny_model)
tokens = st.integers(4, V - 1)
outputs = st.lists(st.lists(tokens, min_size=1, max_size=5), min_size=1, max_size=12)


def generate(config, sources, allowed, prefixes=None, seed=2):
    return list(Generator([model(seed, V)], config, sides, loaded={"allowed": allowed}).generate(sources, prefixes))


@given(st.integers(1, 5), st.sampled_from(["first_finished", "exhaustive"]), st.integers(0, 9), outputs,
       st.lists(st.lists(tokens, min_size=1, max_size=6), min_size=1, max_size=5),
       st.sampled_from([1, 2, None]))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_beam_search_among_allowed_outputs_agrees_with_the_slow_reference(K, stopping, seed, allowed, sources, slots):
    config = DecodeConfig(beam_size=K, n_best=K, stopping=stopping, slots=slots, max_length_a=0, max_length_b=5)
    for n_best, source in zip(generate(config, sources, allowed, seed=seed), sources, strict=True):
        expected = beam_search([model(seed, V)], source, config, outputs=allowed)
        assert [h.ids for h in n_best] == [ids for ids, _, _ in expected]
        for h, (_, value, values) in zip(n_best, expected, strict=True):
            assert h.score == pytest.approx(value, abs=1e-9)
            assert h.token_log_probabilities == pytest.approx(values, abs=1e-9)
            assert not h.truncated


ALLOWED = [[4], [4, 5], [4, 5, 6, 7, 8, 4, 4, 4], [8, 8], [8, 8, 4], [6, 7], [4, 5]]


@pytest.mark.parametrize("stopping", ["best_possible", "exhaustive"])
def test_a_beam_that_covers_everything_ranks_all_that_is_allowed(stopping):
    config = DecodeConfig(beam_size=12, n_best=12, stopping=stopping)
    (n_best,) = generate(config, [[4, 6]], ALLOWED)
    values = {tuple(ids): sum(score([model(2, V)], [4, 6], ids)) for ids in ALLOWED}
    ranked = sorted(values, key=lambda ids: -normalised(values[ids], len(ids), config))
    assert [tuple(h.ids) for h in n_best] == ranked
    assert [h.log_probability for h in n_best] == pytest.approx([values[ids] for ids in ranked], abs=1e-9)


@pytest.mark.parametrize("options", [{"search": "sample"}, {"search": "stochastic_beam"},
                                     {"beam_size": 6, "diverse_groups": 3}])  # fmt: skip
def test_other_searches_produce_nothing_else_whatever_the_slots(options):
    config = DecodeConfig(n_best=5, **options)
    sources = [[4, 5, 6], [8], [7, 7]] * 6
    results = []
    for slots in (1, 4, None):
        found = generate(replace(config, slots=slots, batch_tokens=200), sources, ALLOWED)
        results.append([[h.ids for h in n_best] for n_best in found])
    assert results[0] == results[1] == results[2]
    assert all(ids in ALLOWED for n_best in results[0] for ids in n_best)
    assert len({str(ids) for n_best in results[0] for ids in n_best}) > 3


def test_what_a_list_cannot_be_with_is_a_users_mistake():
    with pytest.raises(UserError, match=r"decode.allowed: does not go with prefix="):
        generate(DecodeConfig(), [[4]], ALLOWED, [[4]])
    with pytest.raises(UserError, match=r"decode.allowed=file: does not go with .*: the list alone decides"):
        DecodeConfig(allowed="file", no_repeat_ngram=2).check()
    learned = tiny_model(0, V, positions="learned")
    with pytest.raises(UserError, match=r"an output has 1024 tokens.*model.max_positions=1024"):
        Generator([learned], DecodeConfig(), sides, loaded={"allowed": [[4] * 1024]})
