"""The position of the iterator is exact at every batch, and workers change nothing."""

import itertools

import numpy as np
import pytest

from s2s.data.iterator import BatchIterator


class Numbers:
    """A dataset whose batches are the example numbers themselves."""

    source_lengths = np.random.default_rng(0).integers(1, 20, 200)
    target_lengths = np.random.default_rng(1).integers(1, 20, 200)

    def __len__(self):
        return 200

    def collate(self, examples):
        return tuple(examples.tolist())


def endless(iterator):
    while True:
        yield from iterator.rest_of_epoch()


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_state_restored_at_any_batch_continues_identically(workers):
    whole = list(itertools.islice(endless(BatchIterator(Numbers(), 100, 7, workers=0)), 70))
    for stop in (0, 1, 13, 29, 30, 31, 60):
        first = BatchIterator(Numbers(), 100, 7, workers)
        start = list(itertools.islice(endless(first), stop))
        second = BatchIterator(Numbers(), 100, 7, workers)
        second.load_state_dict(first.state_dict())
        assert start + list(itertools.islice(endless(second), 70 - stop)) == whole


def test_an_epoch_holds_every_example_once_and_epochs_differ():
    iterator = BatchIterator(Numbers(), 100, 7)
    first, second = list(iterator.rest_of_epoch()), list(iterator.rest_of_epoch())
    assert iterator.state_dict() == {"epoch": 3, "position": 0}
    for epoch in (first, second):
        assert sorted(i for batch in epoch for i in batch) == list(range(200))
    assert first != second


def test_an_error_in_a_worker_reaches_the_caller():
    class Broken(Numbers):
        def collate(self, examples):
            raise OSError("unreadable")

    with pytest.raises(OSError, match="unreadable"):
        next(BatchIterator(Broken(), 100, 7, workers=2).rest_of_epoch())
