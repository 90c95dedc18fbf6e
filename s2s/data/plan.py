"""Which examples share a batch: pure functions from arrays of lengths to lists of example numbers. No tensors here.

A batch's cost is what the device computes: its number of sentences times its longest side, padding included. Examples
are sorted by length, so that a batch holds equal lengths, with ties broken anew at random in each epoch; the batches
are then shuffled.
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
    batches = _cut(np.maximum(source, target)[order], order, budget)
    if rng is not None:
        rng.shuffle(batches)
    padded = [sum(len(batch) * int(side[batch].max()) for batch in batches) for side in (source, target)]
    shares = [1 - float(side.sum()) / size if size else 0.0 for side, size in zip((source, target), padded, strict=True)]
    return Plan(batches, *shares, oversized=int((np.maximum(source, target) > budget).sum()))


def _by_length(source: np.ndarray, target: np.ndarray, rng: np.random.Generator | None) -> np.ndarray:
    """Example numbers by target length, then by source length, rising and falling in turn so that a batch that spans
    two target lengths does not span all source lengths."""
    snake = np.where(target % 2, -source, source)
    if rng is None:
        return np.lexsort((snake, target))
    shuffled = rng.permutation(len(source))
    return shuffled[np.lexsort((snake[shuffled], target[shuffled]))]


def _cut(lengths: np.ndarray, order: np.ndarray, budget: int) -> list[np.ndarray]:
    """Cut the ordered examples into runs, each as long as its count x its longest length stays within the budget."""
    batches, start = [], 0
    while start < len(order):
        window = np.maximum.accumulate(lengths[start : start + budget])
        fits = np.arange(1, len(window) + 1) * window <= budget  # true, then false: the cost only rises
        size = max(1, int(fits.sum()))
        batches.append(order[start : start + size])
        start += size
    return batches
