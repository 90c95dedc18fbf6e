"""Which examples an epoch visits, window by window, for corpora of any size: arithmetic only, nothing is read.

A corpus is an endless stream of passes over it. A pass visits blocks of neighbouring examples in random order. An epoch
takes the next part of every corpus' stream, as many examples as the mixture gives it, and is divided into windows that
hold the same share of every corpus. A window is what is planned at a time; so the memory is that of a window, and the
position in an epoch is the number of a window and a place in its plan, found without going through what came before.

For a billion examples in blocks of 1,024 a pass is an array of a million block numbers, 8 MB.
"""

import numpy as np

Range = tuple[int, int]


def quotas(sizes: list[int], weights: list[float] | None, temperature: float) -> list[int]:
    """How many examples of each corpus an epoch visits; together as many as there are.

    Args:
        sizes: Examples of each corpus.
        weights: Of each corpus in the mixture; None: size ^ (1 / temperature) (Devlin et al. 2019), so that with
            temperature 1 every example is visited once.
        temperature: More than 1 visits small corpora more often.
    """
    if weights is None and temperature == 1:
        return list(sizes)
    shares = np.array(weights if weights is not None else np.array(sizes, float) ** (1 / temperature), float)
    shares[np.array(sizes) == 0] = 0
    exact = shares / shares.sum() * sum(sizes)
    whole = np.floor(exact).astype(np.int64)
    for corpus in np.argsort(whole - exact, kind="stable")[: sum(sizes) - int(whole.sum())]:
        whole[corpus] += 1
    return whole.tolist()


def window_count(visited: list[int], pool: int) -> int:
    """Windows of an epoch that visits so many examples of each corpus, at most `pool` each."""
    return max(1, -(-sum(visited) // pool))


def window(
    sizes: list[int], begin: list[int], visited: list[int], pool: int, number: int, seed: int
) -> list[list[Range]]:
    """The examples of a window, for each corpus as ranges of its own example numbers, from 0.

    Args:
        sizes: Examples of each corpus.
        begin: Where the epoch starts in the stream of each corpus.
        visited: How many examples of each corpus the epoch visits.
        pool: Most examples of a window (but for one a corpus, because shares are rounded).
        number: Of the window, from 0.
        seed: Of the order of the blocks.
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
        part = slice(np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop, "left") + 1)
        starts = blocks[part] + np.maximum(0, start - ends[part] + lengths[part])
        stops = blocks[part] + lengths[part] - np.maximum(0, ends[part] - stop)
        ranges += _joined(starts, stops)
    return ranges


def _joined(starts: np.ndarray, stops: np.ndarray) -> list[Range]:
    """Ranges in rising order, neighbours as one."""
    order = np.argsort(starts)
    starts, stops = starts[order], stops[order]
    apart = np.flatnonzero(starts[1:] != stops[:-1])
    return list(
        zip(starts[np.append(0, apart + 1)].tolist(), stops[np.append(apart, len(stops) - 1)].tolist(), strict=True)
    )
