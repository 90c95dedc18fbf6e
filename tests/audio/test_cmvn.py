"""Mean and variance: the same whoever counts which frames, and those of numpy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.audio.cmvn import Statistics, normalise, normalise_utterance


def features(frames, seed=0):
    return (np.random.default_rng(seed).standard_normal((frames, 5)) * 4 + [0, 5, 10, -15, 20]).astype(np.float16)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6), st.integers(0, 100))
@settings(max_examples=30)
def test_statistics_do_not_depend_on_who_counts_what(cuts, seed):
    whole = features(50, seed)
    pieces = np.split(whole, sorted(cuts))
    total = sum((Statistics.of(piece) for piece in reversed(pieces)), Statistics())
    assert total.facts() == Statistics.of(whole).facts()


def test_statistics_are_those_of_numpy():
    found, whole = Statistics.of(features(3000)).facts(), features(3000).astype(np.float64)
    np.testing.assert_allclose(found["mean"], whole.mean(0), atol=1e-4)
    np.testing.assert_allclose(found["deviation"], whole.std(0), atol=1e-4)


def test_normalised_features_have_mean_zero_and_variance_one():
    whole = features(3000).astype(np.float32)
    facts = Statistics.of(whole).facts()
    for found in (normalise(whole, np.array(facts["mean"]), np.array(facts["deviation"])), normalise_utterance(whole)):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.mean(0), 0, atol=1e-3)
        np.testing.assert_allclose(found.std(0), 1, atol=1e-3)


def test_a_feature_that_never_changes_becomes_zero():
    assert np.array_equal(normalise_utterance(np.full((3, 2), 7, np.float32)), np.zeros((3, 2)))
    assert normalise_utterance(np.empty((0, 2), np.float32)).shape == (0, 2)
