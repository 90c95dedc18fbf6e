"""Windows of an epoch: together they are the epoch, whatever the sizes."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.data.epoch import quotas, window, window_count


def examples(sizes, begin, visited, pool, seed=1):
    """All windows of an epoch, each as a list of (corpus, example)."""
    return [
        [
            (corpus, i)
            for corpus, ranges in enumerate(window(sizes, begin, visited, pool, number, seed))
            for first, last in ranges
            for i in range(first, last)
        ]
        for number in range(window_count(visited, pool))
    ]


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=4), st.integers(1, 400), st.integers(0, 3), st.integers(0, 99)
)
def test_an_epoch_visits_every_example_once(sizes, pool, epoch, seed):
    begin = [epoch * size for size in sizes]
    windows = examples(sizes, begin, sizes, pool, seed)
    assert all(len(one) <= pool + len(sizes) for one in windows)
    counts = Counter(one for part in windows for one in part)
    assert counts == {(corpus, i): 1 for corpus, size in enumerate(sizes) for i in range(size)}


@given(st.integers(1, 200), st.lists(st.integers(1, 500), min_size=1, max_size=6), st.integers(1, 100))
def test_epochs_of_any_size_go_on_where_the_last_one_ended(size, visits, pool):
    """After so many visits in all, every example has had as many as any other, or one more."""
    counts, begin = Counter({i: 0 for i in range(size)}), 0
    for visited in visits:
        counts.update(i for part in examples([size], [begin], [visited], pool) for _, i in part)
        begin += visited
    assert max(counts.values()) - min(counts.values()) <= 1
    assert sum(counts.values()) == sum(visits)


def test_windows_hold_the_same_share_of_every_corpus_and_change_with_the_epoch():
    sizes = [3000, 1000]
    first, second = (examples(sizes, [e * n for n in sizes], sizes, 400) for e in (0, 1))
    assert all(abs(sum(corpus == 0 for corpus, _ in part) - 300) <= 1 for part in first)
    shared = [len(set(a) & set(b)) for a, b in zip(first, second, strict=True)]
    assert max(shared) < 100  # of 400; 40 by chance


def test_neighbours_stay_together_in_blocks_for_the_sake_of_the_disk():
    ranges = window([1 << 20], [0], [1 << 20], 1 << 14, 3, 1)[0]
    assert sum(last - first for first, last in ranges) == 1 << 14
    assert min(last - first for first, last in ranges) >= 16
    assert len(ranges) > 500
    assert all(a[1] < b[0] for a, b in pairwise(ranges))


def test_a_window_of_a_billion_examples_is_found_at_once():
    """No work that grows with the position: any window of any epoch, from its number alone."""
    size, pool = 10**9, 1 << 20
    (ranges,) = window([size], [41 * size], [size], pool, 700, 1)
    assert abs(sum(last - first for first, last in ranges) - pool) < 2000
    assert np.ptp([first for first, _ in ranges]) > 0.9 * size


def test_quotas():
    assert quotas([900, 100], None, 1) == [900, 100]
    assert quotas([900, 100], None, 2) == [750, 250]  # 30 to 10
    assert quotas([900, 100], [1, 1], 1) == [500, 500]
    assert quotas([10, 10, 10], [1, 1, 1], 1) == [10, 10, 10]
    assert quotas([10, 0], [1, 5], 1) == [10, 0]
    assert sum(quotas([7, 5, 3], [1, 1, 1.5], 1)) == 15


@pytest.mark.parametrize("temperature", [1, 5, 100])
def test_temperature_flattens(temperature):
    large, small = quotas([10_000, 100], None, temperature)
    assert large + small == 10_100
    assert np.isclose(large / small, (10_000 / 100) ** (1 / temperature), rtol=0.01)
