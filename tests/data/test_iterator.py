"""The position of the iterator is exact at every batch; workers and ranks change nothing."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data.iterator import BatchIterator, DataConfig, StageConfig
from s2s.data.plan import STRATEGIES
from s2s.data.split import CorpusRange
from s2s.errors import UserError


class Numbers:
    """A dataset whose batches are the example numbers themselves, with the epoch that they are drawn for."""

    source_seconds = None

    def __init__(self, size=200, corpora=((0, 150, "de"), (150, 200, "fr"))):
        rng = np.random.default_rng(0)
        self.sides = rng.integers(1, 20, (2, size))
        self.corpora = [
            CorpusRange(f"{language}-{first}", first, last, language, "en") for first, last, language in corpora
        ]

    def __len__(self):
        return self.sides.shape[1]

    def lengths(self, first, last):
        return self.sides[0, first:last], self.sides[1, first:last]

    def collate(self, examples, rows, draw):
        return (tuple(examples.tolist()), None if rows is None else tuple(rows.tolist()), draw.epoch)


def make(workers=0, dataset=None, **options):
    ranks = {key: options.pop(key) for key in ("rank", "ranks") if key in options}
    return BatchIterator(dataset or Numbers(), DataConfig(**{"batch_tokens": 100, **options}), 7, workers, **ranks)


def endless(iterator):
    while True:
        yield from iterator.rest_of_epoch()


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize(
    "options", [{}, {"pool": 60}, {"batching": "packed", "pool": 90}, {"weights": [1, 1]}], ids=str
)
def test_state_restored_at_any_batch_continues_identically(workers, options):
    whole = list(itertools.islice(endless(make(**options)), 90))
    for stop in (0, 1, 13, 29, 30, 31, 60):
        first = make(workers, **options)
        start = list(itertools.islice(endless(first), stop))
        second = make(workers, **options)
        second.load_state_dict(first.state_dict())
        assert start + list(itertools.islice(endless(second), 90 - stop)) == whole


@given(
    st.sampled_from(STRATEGIES), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([17, 60, 1000]),
    st.integers(1, 150), st.sampled_from(["none", "corpus", "language"]),
)  # fmt: skip
@settings(max_examples=40)
def test_the_union_over_ranks_is_the_epoch_and_all_have_as_many_steps(batching, ranks, seed, pool, budget, homogeneous):
    config = DataConfig(batching=batching, batch_tokens=budget, pool=pool, homogeneous=homogeneous)
    iterators = [BatchIterator(Numbers(), config, seed, 0, rank=rank, ranks=ranks) for rank in range(ranks)]
    steps = [list(iterator.rest_of_epoch()) for iterator in iterators]
    assert len({len(own) for own in steps}) == 1
    assert Counter(i for own in steps for batch in own if batch for i in batch[0]) == {i: 1 for i in range(200)}
    one = BatchIterator(Numbers(), DataConfig(**{**vars(config), "group": ranks}), seed, 0)
    together = [batch for step in zip(*steps, strict=True) for batch in step if batch]
    assert together == list(one.rest_of_epoch())
    assert len({str(iterator.state_dict()) for iterator in iterators}) == 1


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 12))
@settings(max_examples=40)
def test_another_number_of_ranks_finishes_the_epoch_exactly(before, after, steps):
    first = [make(rank=rank, ranks=before, pool=60) for rank in range(before)]
    seen = [batch for iterator in first for batch in itertools.islice(iterator.rest_of_epoch(), steps)]
    second = [make(rank=rank, ranks=after, pool=60) for rank in range(after)]
    for iterator in second:
        iterator.load_state_dict(first[0].state_dict())
    rest = [list(iterator.rest_of_epoch()) for iterator in second]
    assert len(set(map(len, rest))) == 1
    if first[0].epoch == 1:
        everything = Counter(i for batch in [*seen, *itertools.chain(*rest)] if batch for i in batch[0])
        assert everything == {i: 1 for i in range(200)}
    assert all(iterator.group == after for iterator in second)


@given(
    st.sampled_from(STRATEGIES), st.integers(1, 3), st.integers(1, 3), st.integers(0, 14), st.integers(0, 8),
    st.integers(0, 8),
)  # fmt: skip
@settings(max_examples=40)
def test_another_order_from_a_position_on_has_the_rest_of_the_epoch(batching, before, after, steps, again, stop):
    """Two rollbacks, the second one to a later place, then a stop; all is resumed by another number of ranks."""
    config = DataConfig(batching=batching, batch_tokens=60, pool=60)

    def take(iterators, count):
        batches = [list(itertools.islice(iterator.rest_of_epoch(), count)) for iterator in iterators]
        return [batch for own in batches for batch in own if batch]

    first = [BatchIterator(Numbers(), config, 1, 0, rank=rank, ranks=before) for rank in range(before)]
    seen = take(first, steps)
    for number, count in ((1, again), (2, stop)):
        for iterator in first:
            iterator.reorder(number)
        seen += take(first, count)
    rest = take([at(first[0], config, rank, after) for rank in range(after)], None)
    if first[0].epoch == 1:
        assert Counter(i for batch in [*seen, *rest] for i in batch[0]) == {i: 1 for i in range(200)}


def at(iterator, config, rank: int, ranks: int) -> BatchIterator:
    """An iterator at the position of another one."""
    other = BatchIterator(Numbers(), config, 1, 0, rank=rank, ranks=ranks)
    other.load_state_dict(json.loads(json.dumps(iterator.state_dict())))
    return other


def test_each_number_is_an_order_of_its_own_and_what_was_before_stays():
    orders = []
    for number in (0, 1, 2):
        iterator = make(pool=60)
        seen = list(itertools.islice(iterator.rest_of_epoch(), 5))
        if number:
            iterator.reorder(number)
        orders.append([batch[0] for batch in [*seen, *iterator.rest_of_epoch()]])
    assert orders[0][:5] == orders[1][:5] == orders[2][:5]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert sorted(map(sorted, orders[0])) == sorted(map(sorted, orders[1])) == sorted(map(sorted, orders[2]))


def test_epochs_differ_and_count_up():
    iterator = make()
    first, second = list(iterator.rest_of_epoch()), list(iterator.rest_of_epoch())
    assert iterator.state_dict() == {"epoch": 3, "window": 0, "position": 0, "group": 1, "reorders": []}
    assert {batch[2] for batch in first} == {1}
    assert {batch[2] for batch in second} == {2}
    assert {frozenset(batch[0]) for batch in first} != {frozenset(batch[0]) for batch in second}


def test_resuming_reads_no_more_than_its_window():
    class Counting(Numbers):
        read = 0

        def lengths(self, first, last):
            self.read += last - first
            return super().lengths(first, last)

    dataset = Counting(2000, ((0, 2000, "de"),))
    iterator = make(dataset=dataset, pool=100)
    iterator.load_state_dict({"epoch": 9, "window": 15, "position": 3, "group": 1})
    next(iterator.rest_of_epoch())
    assert dataset.read <= 2 * 101  # its own window, and the next one ahead of its turn


def test_weights_repeat_a_corpus_evenly():
    iterator = make(weights=[1, 3])
    counts = Counter(i for _ in range(2) for batch in iterator.rest_of_epoch() for i in batch[0])
    assert sum(counts[i] for i in range(150)) == 100
    assert sum(counts[i] for i in range(150, 200)) == 300
    assert {counts[i] for i in range(150, 200)} == {6}
    assert {counts[i] for i in range(150)} == {0, 1}


def test_stages_follow_each_other():
    stages = [StageConfig(2, max_length=8), StageConfig(1, weights=[0, 1]), StageConfig()]
    iterator = make(stages=stages)
    visited = [Counter(i for batch in iterator.rest_of_epoch() for i in batch[0]) for _ in range(4)]
    short = {i for i in range(200) if iterator.dataset.sides[:, i].max() <= 8}
    assert set(visited[0]) == set(visited[1]) == short
    assert set(visited[2]) == set(range(150, 200))
    assert visited[3] == {i: 1 for i in range(200)}
    assert make(stages=stages).current.left_out == 200 - len(short)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1]}, "a weight for each of the 2 training corpora"),
        ({"weights": [0, 0]}, "must be above 0"),
        ({"weights": [1, 1], "temperature": 2}, "exclude each other"),
        ({"cost": "frames"}, "data.cost=source"),
        ({"batching": "bucket_2d", "buckets": [3]}, "bucket_2d two"),
        ({"stages": [StageConfig(weights=[1, 2, 3])]}, "a weight for each of the 2"),
    ],
)
def test_what_does_not_fit_the_data_is_an_error(options, message):
    with pytest.raises(UserError, match=message):
        make(**options)


def test_a_length_that_leaves_nothing_is_an_error():
    class Long(Numbers):
        def lengths(self, first, last):
            return super().lengths(first, last)[0] + 40, super().lengths(first, last)[1]

    one = Numbers(corpora=((0, 90, "de"), (90, 200, "de")))
    make(dataset=one, homogeneous="corpus")
    with pytest.raises(UserError, match=r"data.homogeneous=language: does nothing, .* have the same language"):
        make(dataset=one, homogeneous="language")
    with pytest.raises(UserError, match=r"data.max_length=40 leaves out every pair: the shortest one has 41 tokens"):
        list(make(dataset=Long(), max_length=40).rest_of_epoch())


def test_an_error_in_a_worker_reaches_the_caller():
    class Broken(Numbers):
        def collate(self, examples, rows, draw):
            raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        next(make(2, Broken()).rest_of_epoch())


def test_an_error_in_planning_ahead_reaches_the_caller():
    class Broken(Numbers):
        def lengths(self, first, last):
            if first > 100:
                raise OSError("unreadable")
            return super().lengths(first, last)

    with pytest.raises(OSError, match="unreadable"):
        list(make(1, Broken(), pool=30).rest_of_epoch())
