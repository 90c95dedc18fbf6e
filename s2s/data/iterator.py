"""Endless batches for training, with a position that is exact at every batch."""

import collections
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from s2s.data.batch import Batch
from s2s.data.plan import Plan, token_budget


class Dataset(Protocol):
    """Pairs with known lengths (EOS included) that can be put together to a batch."""

    source_lengths: np.ndarray
    target_lengths: np.ndarray

    def __len__(self) -> int: ...

    def collate(self, examples: np.ndarray) -> Batch: ...


class BatchIterator:
    """Batches of epoch after epoch; the plan of an epoch depends on (seed, epoch) alone.

    Args:
        dataset: The examples.
        budget: Tokens a batch (padded length of the longer side).
        seed: Of the order.
        workers: Threads that put batches together ahead of time; 0: none, on demand. The batches are the same.
        pin_memory: Put them into page-locked memory, from which copies to a GPU are asynchronous.
    """

    def __init__(self, dataset: Dataset, budget: int, seed: int, workers: int = 1, pin_memory: bool = False):
        self.dataset, self.budget, self.seed, self.workers = dataset, budget, seed, workers
        self.pin_memory = pin_memory
        self.epoch, self.position = 1, 0
        self._plan: tuple[int, Plan] | None = None

    @property
    def plan(self) -> Plan:
        """The current epoch's plan."""
        if self._plan is None or self._plan[0] != self.epoch:
            rng = np.random.default_rng([self.seed, self.epoch])
            lengths = self.dataset.source_lengths, self.dataset.target_lengths
            self._plan = (self.epoch, token_budget(*lengths, self.budget, rng))
        return self._plan[1]

    def state_dict(self) -> dict:
        """The position: the next batch is number `position` (from 0) of `epoch` (from 1)."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict) -> None:
        self.epoch, self.position = state["epoch"], state["position"]

    def rest_of_epoch(self) -> Iterator[Batch]:
        """The batches from the position to the end of the epoch; the position moves with each batch handed out, and
        at the end it is the start of the next epoch."""
        batches = self.plan.batches
        for batch in prefetch(self._collate, batches[self.position :], self.workers):
            self.position += 1
            yield batch
        self.epoch, self.position = self.epoch + 1, 0

    def _collate(self, examples: np.ndarray) -> Batch:
        batch = self.dataset.collate(examples)
        return batch.pin_memory() if self.pin_memory else batch


def prefetch(collate: Callable[[np.ndarray], Batch], batches: list[np.ndarray], workers: int) -> Iterator[Batch]:
    """Collate batches in order, some ahead of their turn in threads."""
    if not workers:
        yield from map(collate, batches)
        return
    with ThreadPoolExecutor(workers) as pool:
        rest, waiting = iter(batches), collections.deque()
        try:
            for examples in rest:
                waiting.append(pool.submit(collate, examples))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
