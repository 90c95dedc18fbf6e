"""WordPiece: merges maximise the likelihood of the text, and words are segmented greedily from either end.

Paper: Schuster and Nakajima, "Japanese and Korean Voice Search", ICASSP 2012; Wu et al., "Google's Neural Machine
Translation System", 2016, https://arxiv.org/abs/1609.08144; both ends: Lee et al., "KR-BERT: A Small-Scale
Korean-Specific Language Model", 2020, https://arxiv.org/abs/2008.03979.

Learning begins with characters; U+2581 marks the beginning of a word. Each step makes the merge of two neighbours that
increases the log-likelihood of a unigram model the most. With f(n) = n log n, counts n_a, n_b, n_ab and N units in all,
a new piece gains f(n_ab) + f(n_a - n_ab) + f(n_b - n_ab) - f(n_a) - f(n_b) + f(N) - f(N - n_ab). A word is segmented
greedily into the longest pieces, from the front (GNMT, BERT) or from the back. `bidirectional` chooses the segmentation
with the more frequent pieces of the two: it compares the sorted vocabulary ranks of their pieces, as the code of
KR-BERT does.

Use: tokenizer=wordpiece tokenizer.vocab_size=8000 tokenizer.direction=bidirectional tokenizer.pre=nfkd_jamo

Left out: BERT's splitting at punctuation and its `##`, which cannot be undone: words are separated by white space. A
word with an unknown character is not unknown as a whole. How the vocabularies of GNMT and KR-BERT were learned is not
published; the rule of 2012, that a unit "increases the likelihood the most", is from memory and taken literally.
"""

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, pairwise

import numpy as np

from s2s.config.schema import option
from s2s.text.tokenizer import LearningError, Tokenizer, TokenizerConfig
from s2s.text.vocabulary import SPECIALS, UNK, Vocabulary

BEGIN = "\u2581"  # begins a word
MOST_WORDS = 1 << 18  # learning uses this many of the most frequent words
NONE = -1
CACHED = 1 << 18  # words


@dataclasses.dataclass
class WordPieceConfig(TokenizerConfig):
    """Options of the WordPiece tokenizer."""

    type: str = option("wordpiece", "component")
    vocab_size: int = option(
        8000, "most pieces in the vocabulary, including the 4 special symbols", at_least=6, at_most=1 << 24
    )
    direction: str = option(
        "forward",
        "end of a word from which longest pieces are cut; bidirectional: the cut of more frequent pieces",
        choices=("forward", "backward", "bidirectional"),
    )


class WordPieceTokenizer(Tokenizer):
    """Segments the words between white space into pieces. Decoding puts one space between words."""

    Config = WordPieceConfig
    widens = True

    def __init__(self, config: WordPieceConfig, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        self._ids = {piece: i for i, piece in enumerate(vocabulary.symbols) if i >= len(SPECIALS)}
        self._longest = max(map(len, self._ids), default=1)
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def _learn(cls, config: WordPieceConfig, chunks: Iterable[list[str]], seed: int) -> "WordPieceTokenizer":
        words = Counter(word for lines in chunks for line in lines for word in line.replace(BEGIN, " ").split())
        if not words:
            raise LearningError("the training text has no words")
        kept = sorted(words.items(), key=lambda item: (-item[1], item[0]))[:MOST_WORDS]
        merges = Merges({BEGIN + word: count for word, count in kept})
        beside = len(SPECIALS) + len(merges.pieces)
        if beside > config.vocab_size:
            raise LearningError(f"vocab_size={config.vocab_size} is too small: the characters of this text need at "
                                f"least vocab_size={beside}")  # fmt: skip
        while len(merges.pieces) + len(SPECIALS) < config.vocab_size and merges.step():
            pass
        counts = dict(zip(merges.pieces, merges.counts, strict=True))
        pieces = sorted(counts, key=lambda piece: (-counts[piece], piece))
        return cls(config, Vocabulary([*SPECIALS, *(piece for piece in pieces if piece not in SPECIALS)]))

    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = [list(chain.from_iterable(map(self._cut, line.split()))) for line in lines]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum()), lengths

    def _decode(self, ids: list[int]) -> str:
        text = "".join("\ufffd" if i == UNK else self.vocabulary.symbols[i] for i in ids)
        return " ".join(text.replace(BEGIN, " ").split())

    def _cut(self, word: str) -> list[int]:
        """The ids of a word, cached."""
        ids = self._cache.get(word)
        if ids is None:
            if len(self._cache) >= CACHED:
                self._cache.clear()
            ids = self._cache[word] = self._chosen(BEGIN + word.replace(BEGIN, "\ufffd"))
        return ids

    def _chosen(self, word: str) -> list[int]:
        if self.config.direction == "forward":
            return self._forward(word)
        backward = self._backward(word)
        if self.config.direction == "backward":
            return backward
        forward = self._forward(word)
        ranks = [sorted(i for i in ids if i != UNK) for ids in (forward, backward)]
        return forward if ranks[0] < ranks[1] else backward

    def _forward(self, word: str) -> list[int]:
        ids: list[int] = []
        start = 0
        while start < len(word):
            ends = range(min(len(word), start + self._longest), start, -1)
            end = next((end for end in ends if word[start:end] in self._ids), start + 1)
            ids.append(self._ids.get(word[start:end], UNK))
            start = end
        return _without_runs(ids)

    def _backward(self, word: str) -> list[int]:
        ids: list[int] = []
        end = len(word)
        while end:
            starts = range(max(0, end - self._longest), end)
            start = next((start for start in starts if word[start:end] in self._ids), end - 1)
            ids.append(self._ids.get(word[start:end], UNK))
            end = start
        return _without_runs(ids[::-1])


def _without_runs(ids: list[int]) -> list[int]:
    """Ids in which each run of unknown characters is merged into one <unk>."""
    return [i for place, i in enumerate(ids) if i != UNK or place == 0 or ids[place - 1] != UNK]


class Merges:
    """The words of a text as pieces, and the gain of each merge of two neighbours.

    Args:
        words: Count of each word.

    Attributes:
        pieces: Characters in the order of code points, then merged pieces.
    """

    def __init__(self, words: dict[str, int]):
        self.pieces = sorted(set(chain.from_iterable(words)))
        self._index = {piece: i for i, piece in enumerate(self.pieces)}
        self._words = [[self._index[character] for character in word] for word in words]
        self._times = list(words.values())
        self._counts, self._total = np.zeros(max(1024, len(self.pieces)), np.int64), 0
        self._where: dict[tuple[int, int], set[int]] = defaultdict(set)  # words of each pair, and perhaps some more
        self._place: dict[tuple[int, int], int] = {}  # of a pair in the columns
        self._pairs = np.zeros((4, 1024), np.int64)  # columns: left piece, right piece, how often, both as a piece
        self._same: dict[str, list[int]] = defaultdict(list)  # columns of the pairs that make a piece
        self._good = np.zeros(0, np.int64)  # columns of pairs that nearly were the best
        changes: Counter[tuple[int, int]] = Counter()
        for number, word in enumerate(self._words):
            for piece in word:
                self._counts[piece] += self._times[number]
            self._total += len(word) * self._times[number]
            self._count(number, 1, changes)
        self._change(changes)

    @property
    def counts(self) -> list[int]:
        """Count of each piece."""
        return self._counts[: len(self.pieces)].tolist()

    def _count(self, number: int, sign: int, changes: Counter[tuple[int, int]]) -> None:
        """Add the pairs of a word to `changes` (sign 1), or subtract them (-1). `aaa` contains one pair `aa`."""
        word, times, before = self._words[number], sign * self._times[number], None
        for pair in pairwise(word):
            if pair[0] == pair[1] and pair == before:
                before = None  # its left side belongs to the pair before
                continue
            before = pair
            changes[pair] += times
            self._where[pair].add(number)

    def _change(self, changes: Counter[tuple[int, int]]) -> None:
        """Add changes to the counts of pairs."""
        for pair in [pair for pair in changes if pair not in self._place]:
            column = self._place[pair] = len(self._place)
            if column == self._pairs.shape[1]:
                self._pairs = np.pad(self._pairs, ((0, 0), (0, column)))
            made = self.pieces[pair[0]] + self.pieces[pair[1]]
            self._same[made].append(column)
            self._pairs[:, column] = *pair, 0, self._index.get(made, NONE)
        self._pairs[2, [self._place[pair] for pair in changes]] += np.array(list(changes.values()))

    def gains(self, columns: np.ndarray) -> np.ndarray:
        """Gain in log-likelihood of merging each pair, float64 [columns]."""
        left, right, both, made = self._pairs[:, columns]
        there = np.where(made == NONE, 0, self._counts[made])
        same, a, b, total = left == right, self._counts[left], self._counts[right], self._total
        distinct = _f(a - both) + _f(b - both) - _f(a) - _f(b)
        less = np.where(same, _f(np.maximum(a - 2 * both, 0)) - _f(a), distinct)
        return _f(there + both) - _f(there) + less + _f(total) - _f(total - both)

    def step(self) -> bool:
        """Make the best merge. Returns whether there is a merge with a gain."""
        both = self._pairs[2, : len(self._place)]
        if not both.size or both.max() < 2:
            return False
        # The gain of a pair is at most n (log N + 1), and twice that if the merged piece exists already. So most pairs
        # are skipped once a good pair is known.
        good = self.gains(self._good).max() if len(self._good) else self.gains(np.array([both.argmax()]))[0]
        bound = (1 + math.log(self._total)) * np.where(self._pairs[3, : len(both)] == NONE, 1, 2)
        columns = np.flatnonzero(both * bound >= max(1.0, good))
        gains = self.gains(columns)
        best = int(gains.argmax())
        if gains[best] <= 0:
            return False
        self._good = columns[np.argpartition(-gains, min(8, len(gains) - 1))[:9]]
        self._merge((int(self._pairs[0, columns[best]]), int(self._pairs[1, columns[best]])))
        return True

    def _merge(self, pair: tuple[int, int]) -> None:
        made = self.pieces[pair[0]] + self.pieces[pair[1]]
        new = self._index.setdefault(made, len(self.pieces))
        if new == len(self.pieces):
            self.pieces.append(made)
            self._pairs[3, self._same[made]] = new
            if new == len(self._counts):
                self._counts = np.pad(self._counts, (0, new))
        changes: Counter[tuple[int, int]] = Counter({pair: 0})
        for number in sorted(self._where.pop(pair)):
            word = self._words[number]
            if pair not in pairwise(word):
                continue
            self._count(number, -1, changes)
            merged: list[int] = []
            place = 0
            while place < len(word):
                if tuple(word[place : place + 2]) == pair:
                    merged.append(new)
                else:
                    merged.append(word[place])
                place += 2 if merged[-1] == new else 1
            times = merged.count(new) * self._times[number]
            for piece, more in ((new, times), (pair[0], -times), (pair[1], -times)):
                self._counts[piece] += more
            self._total -= times
            self._words[number] = merged
            self._count(number, 1, changes)
        self._change(changes)


def _f(n):
    """n log n."""
    return n * np.log(np.maximum(n, 1))
