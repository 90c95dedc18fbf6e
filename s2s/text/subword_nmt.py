"""Byte-pair encoding of words by the codes of subword-nmt or fastBPE, as fairseq's models have it (Sennrich et al.
2016, https://arxiv.org/abs/1508.07909): pieces that a word goes on after end in `@@`. The text is tokenized by then."""

import dataclasses
from itertools import chain, pairwise

import numpy as np

from s2s.config.schema import option
from s2s.text.from_file import FileTokenizer
from s2s.text.tokenizer import TokenizerConfig
from s2s.text.vocabulary import SPECIALS, UNK, Vocabulary

GOES_ON, END = "@@", "</w>"
MOST = 1 << 18  # words whose pieces are remembered


class Codes:
    """Merges in their order.

    Args:
        file: The content of the file: `left right` in each line; the first line of subword-nmt may be
            `#version: 0.2`; in fastBPE's file, a count follows.

    Raises:
        ValueError: the content is something else.
    """

    def __init__(self, file: bytes):
        lines = file.decode("utf-8-sig").split("\n")
        while lines and not lines[-1].strip():
            lines.pop()
        version = (0, 2) if len(lines) > 0 and len(_parts(lines[0])) == 3 else (0, 1)  # fastBPE's file has none
        if lines and lines[0].startswith("#version:"):
            version = tuple(int(part) for part in lines.pop(0).split(":")[1].strip().split(".")[:2])
        if version not in ((0, 1), (0, 2)):
            raise ValueError(f"version {'.'.join(map(str, version))} of the codes; 0.1 and 0.2 are known")
        self.apart = version == (0, 1)  # whether the end of a word is a symbol of its own
        self.ranks: dict[tuple[str, str], int] = {}
        for number, line in enumerate(lines):
            parts = _parts(line)
            if len(parts) not in (2, 3) or (len(parts) == 3 and not parts[2].isdigit()):
                raise ValueError(f"line {number + 1}: two symbols are needed, with a count or without, not {line!r}")
            self.ranks.setdefault((parts[0], parts[1]), number)
        if not self.ranks:
            raise ValueError("there are no codes")

    def cut(self, word: str) -> list[str]:
        """The pieces of a word; all but the last end in `@@`."""
        pieces = [*word, END] if self.apart else [*word[:-1], word[-1] + END]
        while len(pieces) > 1:
            pairs = [(self.ranks[pair], pair) for pair in pairwise(pieces) if pair in self.ranks]
            if not pairs:
                break
            best, merged, place = min(pairs)[1], [], 0
            while place < len(pieces):
                joins = tuple(pieces[place : place + 2]) == best
                merged.append("".join(best) if joins else pieces[place])
                place += 1 + joins
            pieces = merged
        last = pieces.pop().removesuffix(END)
        return [f"{piece}{GOES_ON}" for piece in pieces[: None if last else -1]] + [last or pieces[-1]]


def _parts(line: str) -> list[str]:
    return line.strip("\r\n ").split(" ")


@dataclasses.dataclass
class SubwordNmtConfig(TokenizerConfig):
    """Options of the tokenizer."""

    type: str = option("subword_nmt", "component")
    normalization: str = option("none", "Unicode normalisation of every line", choices=("none", "nfc", "nfkc"))
    codes: str | None = option(None, "file of merges, as subword-nmt or fastBPE writes it")
    vocabulary: str | None = option(
        None, "file of symbols, one per line, such as fairseq's dict.txt; a piece that is not there is unknown"
    )


class SubwordNmtTokenizer(FileTokenizer):
    """Splits words, at whitespace, into the pieces that the codes make of them.

    Args:
        config: Its config.
        codes: The content of the file of merges.
        vocabulary: The symbols.

    Raises:
        ValueError: `codes` is not such a file.
    """

    Config = SubwordNmtConfig
    source, ending, kind = "codes", "codes.txt", "file of codes of subword-nmt or fastBPE"
    unknown = SPECIALS[UNK]

    def __init__(self, config: SubwordNmtConfig, codes: bytes, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        self.model, self._codes = codes, Codes(codes)
        self._ids = self._ids_of_symbols()
        self._words: dict[str, list[int]] = {}

    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = [list(chain.from_iterable(map(self._of_word, line.split()))) for line in lines]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        return np.fromiter(chain.from_iterable(rows), np.int32, lengths.sum()), lengths

    def _of_word(self, word: str) -> list[int]:
        """The ids of a word."""
        ids = self._words.get(word)
        if ids is None:
            ids = [self._ids.get(piece, UNK) for piece in self._codes.cut(word)]
            if len(self._words) < MOST:
                self._words[word] = ids
        return ids

    def _decode(self, ids: list[int]) -> str:
        return self._joined([self.vocabulary.symbols[i] for i in ids])

    def _texts(self, line: str) -> list[str]:
        return [piece for word in line.split() for piece in self._codes.cut(word)]

    def _joined(self, texts: list[str]) -> str:
        return f"{' '.join(texts)} ".replace(f"{GOES_ON} ", "").rstrip()

    def word_marks(self) -> tuple[np.ndarray | None, int | None]:
        """As Tokenizer: pieces say where a word ends, and not where one begins."""
        return None, None
