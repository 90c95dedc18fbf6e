"""The examples of an epoch, window by window, for corpora of any size. This is arithmetic only; no data are read.

A corpus is an endless stream of passes over its examples. A pass visits blocks of neighbouring examples in random
order. An epoch takes the next examples of every corpus's stream, as many as the mixture says. It is divided into
windows, each with the same share of every corpus. Windows are planned one at a time, so only one is in memory. A
position in an epoch is the number of a window and a place in its plan; it is found without replaying earlier ones.

For a billion examples in blocks of 1,024, a pass is an array of a million block numbers, 8 MB.
"""

from collections.abc import Hashable, Sequence

import numpy as np

Range = tuple[int, int]


def quotas(sizes: list[int], weights: list[float] | None, temperature: float) -> list[int]:
    """How many examples of each corpus an epoch visits. Their sum is the number of all examples.

    Args:
        sizes: Number of examples of each corpus.
        weights: Weight of each corpus in the mixture; None: size ^ (1 / temperature) (Devlin et al. 2019). With
            temperature 1, every example is visited once.
        temperature: Above 1, small corpora are visited more often.
    """
    if weights is None and temperature == 1:
        return list(sizes)
    shares = np.array(weights if weights is not None else np.array(sizes, float) ** (1 / temperature), float)
    shares[np.array(sizes) == 0] = 0
    exact = shares / shares.sum() * sum(sizes)
    counts = np.floor(exact).astype(np.int64)
    for corpus in np.argsort(counts - exact, kind="stable")[: sum(sizes) - int(counts.sum())]:
        counts[corpus] += 1
    return counts.tolist()


def grouped_quotas(
    sizes: list[int], groups: Sequence[Hashable], weights: list[float] | None, temperature: float
) -> list[int]:
    """As `quotas`, with shares of groups of corpora; in a group each corpus has a share by its size.

    Args:
        sizes: Number of examples of each corpus.
        groups: The group of each corpus.
        weights: Weight of each group, in the order of their first corpora; None: as in `quotas`.
        temperature: As in `quotas`, for the sizes of groups.
    """
    totals: dict[Hashable, int] = {}
    for group, size in zip(groups, sizes, strict=True):
        totals[group] = totals.get(group, 0) + size
    shares = weights or [total ** (1 / temperature) for total in totals.values()]
    share = dict(zip(totals, shares, strict=True))
    return quotas(sizes, [share[group] * size / max(1, totals[group])
                          for group, size in zip(groups, sizes, strict=True)], 1.0)  # fmt: skip


def window_count(visited: list[int], pool: int) -> int:
    """The number of windows of an epoch, each with at most `pool` examples; visited: examples of each corpus."""
    return max(1, -(-sum(visited) // pool))


def window(
    sizes: list[int], begin: list[int], visited: list[int], pool: int, number: int, seed: int
) -> list[list[Range]]:
    """The examples of a window: for each corpus, ranges of example numbers within the corpus, from 0.

    Args:
        sizes: Number of examples of each corpus.
        begin: Where the epoch starts in the stream of each corpus.
        visited: How many examples of each corpus the epoch visits.
        pool: Maximum number of examples in a window (rounding may add one per corpus).
        number: Number of the window, from 0.
        seed: Seed of the order of blocks.
    """
    count = window_count(visited, pool)
    ranges = []
    for corpus, (size, start, share) in enumerate(zip(sizes, begin, visited, strict=True)):
        first, last = share * number // count, share * (number + 1) // count
        block = max(1, pool // 1024, size >> 20)
        ranges.append(_stream(size, block, start + first, start + last, (seed, corpus)))
    return ranges


def _stream(size: int, block: int, first: int, last: int, seed: tuple[int, ...]) -> list[Range]:
    """Examples first ... last - 1 of the endless passes over a corpus, as ranges, rising within a pass."""
    ranges: list[Range] = []
    while first < last:
        number, start = divmod(first, size)
        stop = min(size, start + last - first)
        first += stop - start
        if (start, stop) == (0, size):
            ranges.append((0, size))
            continue
        blocks = np.random.default_rng([*seed, number]).permutation(-(-size // block)) * block
        lengths = np.minimum(block, size - blocks)
        ends = np.cumsum(lengths)
        visited = slice(np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left") + 1)
        starts = blocks[visited] + np.maximum(0, start - ends[visited] + lengths[visited])
        stops = blocks[visited] + lengths[visited] - np.maximum(0, ends[visited] - stop)
        ranges += _joined(starts, stops)
    return ranges


def _joined(starts: np.ndarray, stops: np.ndarray) -> list[Range]:
    """Sort ranges, and join neighbouring ones."""
    order = np.argsort(starts)
    starts, stops = starts[order], stops[order]
    apart = np.flatnonzero(starts[1:] != stops[:-1])
    return list(
        zip(starts[np.append(0, apart + 1)].tolist(), stops[np.append(apart, len(stops) - 1)].tolist(), strict=True)
    )
