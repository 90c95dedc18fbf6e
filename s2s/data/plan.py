"""Which examples share a batch: pure functions from arrays of lengths to lists of example numbers. No tensors here.

A batch's cost is what the device computes: its number of sentences times its longest side, padding included. Examples
are sorted by length, so that a batch holds equal lengths, a little blurred so that its members change from epoch to
epoch; the batches are then shuffled.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass
class Plan:
    """The batches of one epoch.

    Attributes:
        batches: Arrays of example numbers, int64.
        source_padding: Padded share of all source positions, 0 to 1.
        target_padding: The same for the target side.
        oversized: Examples that are over the budget alone; each has a batch to itself.
    """

    batches: list[np.ndarray]
    source_padding: float
    target_padding: float
    oversized: int


def token_budget(source: np.ndarray, target: np.ndarray, budget: int, rng: np.random.Generator | None) -> Plan:
    """Batches whose padded longer side fits a budget of tokens.

    Args:
        source: [n] source lengths in tokens, what the model sees (EOS included).
        target: [n] target lengths.
        budget: Largest number of sentences x longest side.
        rng: Source of the epoch's randomness; None: by length, in order (validation).

    Returns:
        A plan holding every example exactly once.
    """
    source, target = np.asarray(source, np.int64), np.asarray(target, np.int64)
    order = _by_length(source, target, rng)
    # A first batch of random size moves all the cuts, so that the same neighbours do not share a batch in every epoch.
    first = budget if rng is None else int(rng.integers(1, budget + 1))
    batches = _cut(np.maximum(source, target)[order], order, budget, first)
    if rng is not None:
        rng.shuffle(batches)
    padded = [sum(len(batch) * int(side[batch].max()) for batch in batches) for side in (source, target)]
    shares = [1 - float(side.sum()) / max(1, size) for side, size in zip((source, target), padded, strict=True)]
    return Plan(batches, *shares, oversized=int((np.maximum(source, target) > budget).sum()))


def _by_length(source: np.ndarray, target: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Example numbers by target length, then by source length, rising and falling in turn so that a batch that spans
    two target lengths does not span all source lengths.

    Source lengths are blurred by up to one token, for a little more source padding: without it, nearly the same
    examples would share a batch in every epoch.
    """
    blurred = source if rng is None else source + rng.uniform(-1, 1, len(source))
    return np.lexsort((np.where(target % 2, -blurred, blurred), target))


def _cut(lengths: np.ndarray, order: np.ndarray, budget: int, first: int) -> list[np.ndarray]:
    """Cut the ordered examples into runs, each as long as its count x its longest length stays within the budget
    (within `first` for the first run)."""
    batches, start = [], 0
    while start < len(order):
        limit = budget if start else first
        window = np.maximum.accumulate(lengths[start : start + limit])
        fits = np.arange(1, len(window) + 1) * window <= limit  # true, then false: the cost only rises
        size = max(1, int(fits.sum()))
        batches.append(order[start : start + size])
        start += size
    return batches
