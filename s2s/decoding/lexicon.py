"""Which target symbols a source symbol may become: IBM model 1 (Brown et al. 1993), learned from a store's token ids.

t(target | source) is found by expectation maximisation, with a NULL symbol in each source for what no other explains.
Only pairs of symbols that sentences hold together have a probability; of these the rarest are left out where memory
would not hold all.

Shapes: k pairs of symbols, l links of a chunk (a link: a source and a target position of one sentence pair).
"""

from collections.abc import Callable, Iterator

import numpy as np

from s2s.data.split import Split
from s2s.text.vocabulary import BOS

NULL = BOS  # which no source holds
BLOCK = 10_000  # sentence pairs that are read at once
CHUNK_LINKS = 1 << 21
MOST_PAIRS = 1 << 23  # of symbols: some 0.5 GB while they are counted

Progress = Callable[[int], None]


class Chunk:
    """Some sentence pairs and the links between their two sides.

    Args:
        source, target: Ids of all sentences, one after the other, and the number of each.
        symbols: Of the target vocabulary.

    Attributes:
        sentences: How many.
        keys: [l] int64, source symbol * symbols + target symbol, target token by target token.
        starts: The first link of each target token.
        sizes: Links of each target token.
    """

    def __init__(self, source: tuple[np.ndarray, np.ndarray], target: tuple[np.ndarray, np.ndarray], symbols: int):
        (ids, lengths), (targets, target_lengths) = source, target
        self.sentences = len(lengths)
        ids, lengths = np.insert(ids, np.cumsum(lengths), NULL), lengths + 1
        self.sizes = np.repeat(lengths, target_lengths)
        self.starts = np.cumsum(self.sizes) - self.sizes
        firsts = np.repeat(np.cumsum(lengths) - lengths, target_lengths)
        places = np.arange(self.sizes.sum()) + np.repeat(firsts - self.starts, self.sizes)
        self.keys = ids[places] * symbols + np.repeat(targets, self.sizes)


def blocks(total: int, pairs: int) -> Iterator[np.ndarray]:
    """Numbers of `total` sentence pairs, or of `pairs` of them at even distances, so many at a time as are read."""
    count = min(total, pairs)
    for first in range(0, count, BLOCK):
        yield np.arange(first, min(first + BLOCK, count)) * total // count


def chunks(split: Split, symbols: int, pairs: int) -> Iterator[Chunk]:
    """The sentence pairs of a split, or `pairs` of them at even distances, as many at a time as memory allows."""
    for numbers in blocks(len(split), pairs):
        sides = [split.gather(f"{side}.tokens", numbers) for side in ("source", "target")]
        starts = [np.append(0, np.cumsum(lengths)) for _, lengths in sides]
        links = np.append(0, np.cumsum((sides[0][1] + 1) * sides[1][1]))
        a, count = 0, len(links) - 1
        while a < count:
            b = max(a + 1, int(np.searchsorted(links, links[a] + CHUNK_LINKS, "right")) - 1)
            parts = [
                (ids[start[a] : start[b]], lengths[a:b]) for (ids, lengths), start in zip(sides, starts, strict=True)
            ]
            if links[b] > links[a]:
                yield Chunk(*parts, symbols)
            a = b


def met_together(parts: Iterator[Chunk], most: int = MOST_PAIRS) -> np.ndarray:
    """Keys of the pairs of symbols that sentences hold together, ascending; if they are over `most`, the rarest are
    left out as they come."""
    keys, counts, least = np.zeros(0, np.int64), np.zeros(0, np.int64), 0
    fresh: list[tuple[np.ndarray, np.ndarray]] = []

    def merge() -> None:
        nonlocal keys, counts, least
        all_keys, all_counts = (np.concatenate(column) for column in zip((keys, counts), *fresh, strict=True))
        keys, places = np.unique(all_keys, return_inverse=True)
        counts = np.bincount(places, all_counts).astype(np.int64)
        fresh.clear()
        while len(keys) > most:
            least += 1
            keys, counts = keys[counts > least], counts[counts > least]

    for part in parts:
        fresh.append(np.unique(part.keys, return_counts=True))
        if sum(len(new) for new, _ in fresh) > max(len(keys), CHUNK_LINKS):
            merge()
    merge()
    return keys


def translation_probabilities(
    split: Split, symbols: int, iterations: int, pairs: int, progress: Progress = lambda sentences: None
) -> tuple[np.ndarray, np.ndarray]:
    """t(target | source) of pairs of symbols.

    Args:
        split: To learn from.
        symbols: Of the target vocabulary.
        iterations: Of expectation maximisation, from uniform probabilities.
        pairs: Learn from at most so many sentence pairs.
        progress: Called with a number of sentence pairs that have been seen once more.

    Returns:
        Keys [k], source symbol * symbols + target symbol, ascending, and their probabilities [k].
    """

    def parts() -> Iterator[Chunk]:
        for part in chunks(split, symbols, pairs):
            yield part
            progress(part.sentences)

    keys = met_together(parts())
    sources = keys // symbols
    probabilities = np.ones(len(keys))
    if not len(keys):
        return keys, probabilities
    for _ in range(iterations):
        expected = np.zeros(len(keys))
        for part in parts():
            places = np.searchsorted(keys, part.keys).clip(max=len(keys) - 1)
            shares = np.where(keys[places] == part.keys, probabilities[places], 0.0)
            totals = np.add.reduceat(shares, part.starts)
            shares /= np.repeat(np.maximum(totals, 1e-300), part.sizes)
            expected += np.bincount(places, shares, len(keys))
        probabilities = expected / np.maximum(np.bincount(sources, expected)[sources], 1e-300)
    return keys, probabilities


def most_probable(
    keys: np.ndarray, probabilities: np.ndarray, source_symbols: int, symbols: int, n: int, fill: int
) -> np.ndarray:
    """The n most probable target symbols of each source symbol, int32 [source_symbols, n], and `fill` where there are
    fewer; keys and probabilities as above."""
    sources, targets = np.divmod(keys, symbols)
    order = np.lexsort((-probabilities, sources))
    sources, targets = sources[order], targets[order]
    rank = np.arange(len(sources)) - np.searchsorted(sources, sources)
    table = np.full((source_symbols, n), fill, np.int32)
    chosen = rank < n
    table[sources[chosen], rank[chosen]] = targets[chosen]
    return table
