"""Random segmentations of text into the pieces of a SentencePiece model, with a seed for each line.

SentencePiece can sample too, but its random generator belongs to a thread. Seeding it for each line takes one call per
line, and each call releases Python's lock, for which a thread beside a training loop then waits long. Here a few
hundred NumPy operations draw a batch, from the same distributions (tests compare them with SentencePiece's).

A line is split into words, which no piece crosses, so each word is drawn separately. Random numbers are counter-based:
those of a word are hashes of the line's seed and the position of the word in the line.
"""

import math
import re
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import chain

import numpy as np

from s2s.errors import UserError

SPACE = "\u2581"  # SentencePiece's sign for a space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of pieces
CODE_POINTS = 0x110000
NONE = -1
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
UNKNOWN_PENALTY = 10.0  # score of an unknown character below the lowest score of a piece, as in SentencePiece
TABLE_SIZE = 1 << 22  # transitions of cached words; above this the cache is cleared
CELLS = 1 << 15  # cells of a grid of symbols; its arrays fit into a processor's cache


class Model:
    """The pieces of a serialised SentencePiece model.

    Attributes:
        algorithm: "unigram", "bpe", "word" or "char".
        pieces, scores, types: Text, score and type of the piece of each id.
        unknown: Id of the unknown piece.
    """

    def __init__(self, serialised: bytes):
        self.pieces: list[str] = []
        self.scores: list[float] = []
        self.types: list[int] = []
        kind = 1  # the defaults of sentencepiece_model.proto, version 2 syntax
        for number, value in _fields(serialised):
            if number == 1:  # SentencePiece: piece = 1, score = 2, type = 3
                fields = dict(_fields(value))
                self.pieces.append(fields.get(1, b"").decode("utf-8", "replace"))
                self.scores.append(struct.unpack("<f", fields.get(2, bytes(4)))[0])
                self.types.append(fields.get(3, NORMAL))
            elif number == 2:  # TrainerSpec: model_type = 3
                kind = dict(_fields(value)).get(3, kind)
        self.algorithm = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}[kind]
        self.unknown = self.types.index(UNKNOWN)

    def of_types(self, *types: int) -> dict[str, int]:
        """Text -> id of the pieces of these types."""
        return {piece: i for i, (piece, type) in enumerate(zip(self.pieces, self.types, strict=True)) if type in types}


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a serialised protocol buffer; fixed-width values as bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            yield tag >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(tag & 7) or varint()
        yield tag >> 3, message[at : at + size]
        at += size


def sampler(serialised: bytes, strength: float) -> "Sampler":
    """Make the sampler of a SentencePiece model.

    Args:
        serialised: The model.
        strength: See `UnigramSampler` and `MergeSampler`.

    Raises:
        UserError: the model does not support sampling.
    """
    model = Model(serialised)
    if model.algorithm == "unigram":
        return UnigramSampler(model, strength)
    if model.algorithm != "bpe":
        raise UserError(f"a model of type {model.algorithm} has one segmentation only; sampling=0 takes it")
    if UNUSED in model.types:
        raise UserError("a BPE model with unused pieces cannot be sampled from; sampling=0 takes it")
    return MergeSampler(model, strength)


class Sampler(ABC):
    """Draws segmentations. Several threads may call it at once.

    Args:
        model: The pieces.
        strength: Exponent or probability, see the subclasses.
    """

    def __init__(self, model: Model, strength: float):
        self._model, self._strength = model, strength
        self._size = len(model.pieces)
        byte = model.of_types(BYTE)
        self._bytes = np.array([byte[f"<0x{i:02X}>"] for i in range(256)], np.int64) if byte else None
        known = model.of_types(NORMAL, USER_DEFINED)
        # If pieces cross word boundaries, the line is treated as one word, which is slower.
        crossing = any(SPACE in piece[1:] for piece in known)
        self._words = re.compile(r".+" if crossing else f"{SPACE}?[^{SPACE}]+|{SPACE}", re.DOTALL).findall

    def sample(self, lines: list[str], seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw a segmentation of each line. It depends only on the line and its seed.

        Args:
            lines: Lines, normalised by the model's own rules, with spaces as `SPACE`.
            seeds: Unsigned integers [lines].

        Returns:
            Ids of the model, int64 [sum of lengths], and the number of ids of each line, int64 [lines].
        """
        words = list(map(self._words, lines))
        per_line = np.fromiter(map(len, words), np.int64, len(words))
        line = np.repeat(np.arange(len(lines)), per_line)
        words = list(chain.from_iterable(words))
        sizes = np.fromiter(map(len, words), np.int64, len(words))
        starts = np.concatenate(([0], np.cumsum(sizes)))
        starts = starts[:-1] - np.repeat(starts[np.cumsum(per_line) - per_line], per_line)  # in the line
        # A word draws fewer than four numbers per character, so no two words of a line share a number.
        keys = _mixed(np.asarray(seeds, np.uint64))[line] + 4 * starts.astype(np.uint64) * GOLDEN
        word, symbols = self._draw(words, keys)
        order = np.argsort(word, kind="stable")
        return self._spelled(symbols[order], np.bincount(line[word], minlength=len(lines)))

    @abstractmethod
    def _draw(self, words: list[str], keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draw symbols of the words: number of the word [tokens], and symbol [tokens], in order within each word.

        A symbol is the id of a piece; or `self._size` plus the code point of a character without a piece; or
        `self._size + CODE_POINTS` plus the id of a piece that is never merged.
        """

    def _spelled(self, symbols: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Convert symbols to ids: an unknown character becomes byte pieces, or a run of them one unknown piece."""
        frozen = symbols >= self._size + CODE_POINTS
        symbols[frozen] -= self._size + CODE_POINTS
        unknown = symbols >= self._size
        if not unknown.any():
            return symbols, lengths
        line = np.repeat(np.arange(len(lengths)), lengths)
        if self._bytes is None:
            symbols[unknown] = self._model.unknown
            follows = np.zeros(len(symbols), bool)
            follows[1:] = unknown[1:] & unknown[:-1] & (line[1:] == line[:-1])
            return symbols[~follows], lengths - np.bincount(line[follows], minlength=len(lengths))
        spelled = [chr(i).encode("utf-8", "surrogatepass") for i in (symbols[unknown] - self._size).tolist()]
        times = np.ones(len(symbols), np.int64)
        times[unknown] = list(map(len, spelled))
        symbols = np.repeat(symbols, times)
        symbols[symbols >= self._size] = self._bytes[np.frombuffer(b"".join(spelled), np.uint8)]
        return symbols, np.bincount(line, times, len(lengths)).astype(np.int64)


class UnigramSampler(Sampler):
    """Subword regularisation (Kudo 2018): P(segmentation) is proportional to P(its pieces)^strength.

    The lattice of a word is stored as a table of transitions with cumulative probabilities, after backward filtering.
    In state i the first i characters are segmented; a draw chooses the transition to the next state.
    """

    def __init__(self, model: Model, strength: float):
        super().__init__(model, strength)
        scores = {piece: model.scores[i] for piece, i in model.of_types(NORMAL).items()}
        self._unknown_weight = strength * (min(scores.values()) - UNKNOWN_PENALTY)
        most = max(0.0, *scores.values())  # no less than 0: SentencePiece's own
        scores |= {piece: len(piece) * most - 0.1 for piece in model.of_types(USER_DEFINED)}
        known = model.of_types(NORMAL, USER_DEFINED)
        self._weights = {piece: (known[piece], strength * score) for piece, score in scores.items()}
        self._longest = max(map(len, known))
        self._lock = threading.Lock()
        self._clear()

    def _clear(self) -> None:
        self._states: dict[str, int] = {}  # word -> its first state
        self._thresholds, self._symbols, self._following = _Column(np.int64), _Column(np.int64), _Column(np.int64)
        self._count = 0  # states

    def _draw(self, words, keys):
        first, thresholds, table, following = self._tables(words)
        word, state, key = np.arange(len(words)), first, keys
        drawn: list[tuple[np.ndarray, np.ndarray]] = []
        while len(word):
            random = _mixed(key + (state - first).astype(np.uint64) * GOLDEN) >> np.uint64(32)
            taken = np.searchsorted(thresholds, state << 32 | random.astype(np.int64), side="right")
            drawn.append((word, table[taken]))
            state = following[taken]
            if len(going := np.flatnonzero(state >= 0)) < len(word):
                word, state, key, first = word[going], state[going], key[going], first[going]
        return tuple(np.concatenate(column) for column in zip(*drawn, strict=True)) if drawn else (word, word)

    def _tables(self, words: list[str]) -> tuple[np.ndarray, ...]:
        """First states of the words, and the tables. Later calls do not change the arrays that are returned."""
        with self._lock:
            if len(self._symbols) > TABLE_SIZE:
                self._clear()
            new = {word for word in words if word not in self._states}
            columns: tuple[list, ...] = [], [], []
            for word in new:
                self._states[word] = self._count
                self._add(word, *columns)
                self._count += len(word)
            for column, values in zip((self._thresholds, self._symbols, self._following), columns, strict=True):
                column.extend(values)
            first = np.fromiter(map(self._states.__getitem__, words), np.int64, len(words))
            return first, self._thresholds.view(), self._symbols.view(), self._following.view()

    def _add(self, word: str, thresholds: list[int], symbols: list[int], following: list[int]) -> None:
        """Append the transitions of a word's states."""
        size, weight_of, first = len(word), self._weights.get, self._count
        logs = [0.0] * (size + 1)  # log of the sum over all segmentations of the characters from here on
        arcs: list[tuple[list[int], list[int], list[float]]] = []
        for i in range(size - 1, -1, -1):
            ends, ids, weights = [], [], []
            for end in range(i + 1, min(i + self._longest, size) + 1):
                if piece := weight_of(word[i:end]):
                    ends.append(end)
                    ids.append(piece[0])
                    weights.append(piece[1] + logs[end])
            if not ends or ends[0] > i + 1:
                ends.append(i + 1)
                ids.append(self._size + ord(word[i]))
                weights.append(self._unknown_weight + logs[i + 1])
            most = max(weights)
            shares = [math.exp(weight - most) for weight in weights]
            total = sum(shares)
            logs[i] = most + math.log(total)
            arcs.append((ends, ids, [share / total for share in shares]))
        for state, (ends, ids, shares) in enumerate(reversed(arcs), first):
            share = 0.0
            for probability in shares:
                share += probability
                thresholds.append((state << 32) + int(share * (1 << 32)))
            thresholds[-1] = (state + 1) << 32
            symbols += ids
            following += [first + end if end < size else -1 for end in ends]


class MergeSampler(Sampler):
    """BPE-dropout (Provilkov et al. 2020) as in SentencePiece: the best merge is dropped with probability `strength`,
    and is considered again only after one of its two symbols has been merged with another one.

    Words are rows of a grid. Each round tries the best merge of every row.
    """

    def __init__(self, model: Model, strength: float):
        super().__init__(model, strength)
        known = model.of_types(NORMAL, USER_DEFINED)
        # User-defined pieces are never merged: they get symbols that occur in no pair.
        frozen = {piece: self._size + CODE_POINTS + i for piece, i in model.of_types(USER_DEFINED).items()}
        longest_first = "|".join(map(re.escape, sorted(frozen, key=len, reverse=True)))
        self._parts = re.compile(f"{longest_first}|.", re.DOTALL).findall if frozen else list
        pairs = {}
        symbols = _Symbols(self._size, known)
        for piece, i in known.items():
            for cut in range(1, len(piece)):
                sides = piece[:cut], piece[cut:]
                if all(len(side) == 1 or side in known for side in sides):
                    pairs[symbols[sides[0]] << 32 | symbols[sides[1]]] = i
        self._symbols = _Symbols(self._size, {piece: i for piece, i in known.items() if len(piece) == 1} | frozen)
        pairs[1 << 62] = 0  # matches no symbols; it keeps the table from being empty
        self._pairs = np.array(sorted(pairs), np.int64)
        self._merged = np.array([pairs[pair] for pair in self._pairs.tolist()], np.int64)
        self._scores = np.array(model.scores, np.float32)[self._merged]
        self._threshold = np.uint64(round(strength * (1 << 32)))

    def _draw(self, words, keys):
        parts = list(map(self._parts, words))
        sizes = np.fromiter(map(len, parts), np.int64, len(parts))
        symbols = np.fromiter(map(self._symbols.__getitem__, chain.from_iterable(parts)), np.int64, sizes.sum())
        starts = np.cumsum(sizes) - sizes
        order, begin, drawn = np.argsort(sizes, kind="stable"), 0, []
        while begin < len(order):  # a grid holds as many words of similar length as fit
            cells = np.arange(1, len(order) - begin + 1) * (sizes[order[begin:]] + 2)
            end = begin + max(1, int(np.searchsorted(cells, CELLS, side="right")))
            word = order[begin:end]
            column = np.arange(sizes[word[-1]] + 2) - 1
            inside = (column >= 0) & (column < sizes[word, None])
            grid = np.full(inside.shape, NONE)
            grid[inside] = symbols[(starts[word, None] + column)[inside]]
            self._merge(grid, keys[word])
            left = grid != NONE
            drawn.append((np.repeat(word, left.sum(1)), grid[left]))
            begin = end
        return tuple(map(np.concatenate, zip(*drawn, strict=True))) if drawn else (order, symbols)

    def _merge(self, grid: np.ndarray, keys: np.ndarray) -> None:
        """Merge the symbols of each row in place. The merged symbol replaces the left one of the pair; the right one
        becomes `NONE`. The first and the last cell of every row are `NONE`.
        """
        width, flat = grid.shape[1], grid.reshape(-1)
        before, after = np.arange(-1, flat.size - 1), np.arange(1, flat.size + 1)  # places of the neighbours
        scores, merged = np.full(grid.shape, -np.inf, np.float32), np.empty_like(flat)
        flat_scores = scores.reshape(-1)
        merged[:-1], flat_scores[:-1] = self._look_up(flat[:-1], flat[1:])
        row = np.arange(len(grid))
        while len(row):
            best = scores[row].argmax(1)  # the first of those with the same score
            going = scores[row, best] > -np.inf
            if not going.all():
                row, best = row[going], best[going]
            keys = keys + GOLDEN
            place = row * width + best
            random = _mixed(keys[row]) >> np.uint64(32)
            flat_scores[place] = -np.inf  # it was tried
            place = place[random >= self._threshold]
            gone = after[place]
            flat[place], flat[gone], flat_scores[gone] = merged[place], NONE, -np.inf
            after[place] = after[gone]
            before[after[place]] = place
            left = np.concatenate((before[place], place))
            merged[left], flat_scores[left] = self._look_up(flat[left], flat[after[left]])

    def _look_up(self, left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The symbols into which pairs are merged, and the scores of these merges; -inf if a pair does not merge."""
        pair = left << 32 | right
        index = np.minimum(np.searchsorted(self._pairs, pair), len(self._pairs) - 1)
        return self._merged[index], np.where(self._pairs[index] == pair, self._scores[index], -np.inf)


class _Symbols(dict):
    """Piece -> symbol. A character without a piece gets the number of pieces plus its code point."""

    def __init__(self, size: int, known: dict[str, int]):
        super().__init__(known)
        self._size = size

    def __missing__(self, character: str) -> int:
        return self._size + ord(character)


class _Column:
    """An array that grows at its end. Views that were taken before stay unchanged."""

    def __init__(self, dtype: type):
        self._array, self._used = np.empty(1024, dtype), 0

    def __len__(self) -> int:
        return self._used

    def extend(self, values: list) -> None:
        used = self._used + len(values)
        if used > len(self._array):
            self._array = np.concatenate((self._array[: self._used], np.empty(2 * used, self._array.dtype)))
        self._array[self._used : used] = values
        self._used = used

    def view(self) -> np.ndarray:
        return self._array[: self._used]


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """The output of SplitMix64 for these states (Steele, Lea and Flood 2014), uint64 of the same shape."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
