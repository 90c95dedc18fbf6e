"""Translation probabilities of symbols: IBM model 1 (Brown et al. 1993), learned from the token ids of a store.

t(target | source) is estimated by expectation maximisation. Each source has a NULL symbol for target symbols that no
other source symbol explains. Only pairs of symbols that occur in the same sentence pair have a probability. If there
are too many pairs for memory, the rarest are left out.

Shapes: k pairs of symbols, l links of a chunk. A link is a source and a target position of the same sentence pair.
"""

from collections.abc import Callable, Iterator

import numpy as np

from s2s.data.split import Split
from s2s.text.vocabulary import BOS

NULL = BOS  # no source contains it
BLOCK = 10_000  # sentence pairs read at once
CHUNK_LINKS = 1 << 21
MOST_PAIRS = 1 << 23  # maximum number of symbol pairs; counting them takes about 0.5 GB

Progress = Callable[[int], None]


class Chunk:
    """Some sentence pairs and the links between their two sides.

    Args:
        source, target: Concatenated token ids of all sentences, and the length of each sentence.
        symbols: Size of the target vocabulary.

    Attributes:
        sentences: Number of sentence pairs.
        keys: [l] int64, source symbol * symbols + target symbol, ordered by target tokens.
        starts: The first link of each target token.
        sizes: The number of links of each target token.
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
    """Blocks of the numbers of `total` sentence pairs; if `pairs` is smaller, of so many of them, evenly spaced."""
    count = min(total, pairs)
    for first in range(0, count, BLOCK):
        yield np.arange(first, min(first + BLOCK, count)) * total // count


def chunks(split: Split, symbols: int, pairs: int) -> Iterator[Chunk]:
    """Chunks of the sentence pairs of a split, as large as memory allows. If `pairs` is smaller than the split, only so
    many sentence pairs are used, evenly spaced."""
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
    """Keys of the symbol pairs that occur in the same sentence pair, int64 [k], ascending. Whenever there are more than
    `most`, the rarest are dropped."""
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
    """Estimate t(target | source) for pairs of symbols.

    Args:
        split: The split to learn from.
        symbols: Size of the target vocabulary.
        iterations: Iterations of expectation maximisation, which starts from uniform probabilities.
        pairs: Maximum number of sentence pairs to learn from.
        progress: Called with the number of sentence pairs read since the last call; every iteration reads them all.

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
    """The n most probable target symbols of each source symbol.

    Args:
        keys, probabilities: As `translation_probabilities` returns them.
        source_symbols, symbols: Sizes of the source and the target vocabulary.
        n: Target symbols per source symbol.
        fill: Stands in the places of missing symbols, if there are fewer than n.

    Returns:
        int32 [source_symbols, n].
    """
    sources, targets = np.divmod(keys, symbols)
    order = np.lexsort((-probabilities, sources))
    sources, targets = sources[order], targets[order]
    rank = np.arange(len(sources)) - np.searchsorted(sources, sources)
    table = np.full((source_symbols, n), fill, np.int32)
    chosen = rank < n
    table[sources[chosen], rank[chosen]] = targets[chosen]
    return table
