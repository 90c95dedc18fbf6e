"""Tokenizer into characters (Unicode code points). A space is a character like any other."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from s2s.config.schema import option
from s2s.text.tokenizer import Tokenizer, TokenizerConfig
from s2s.text.vocabulary import SPECIALS, UNK, Vocabulary
from s2s.text.words import CountedConfig, counted_vocabulary, given_vocabulary

CODE_POINTS = 0x110000


@dataclasses.dataclass
class CharacterConfig(CountedConfig):
    """Options of the character tokenizer."""

    type: str = option("characters", "component")


class CharacterTokenizer(Tokenizer):
    """Splits a line, after normalisation, into its code points."""

    Config = CharacterConfig
    widens = True
    unknown = "\ufffd"

    def __init__(self, config: TokenizerConfig, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        symbols = vocabulary.symbols[len(SPECIALS) :]
        self._ids = np.full(CODE_POINTS, UNK, np.int32)  # code point -> id
        self._ids[_code_points("".join(symbols))] = np.arange(len(SPECIALS), len(vocabulary))

    @classmethod
    def _learn(cls, config: CharacterConfig, chunks: Iterable[list[str]], seed: int) -> "CharacterTokenizer":
        if config.vocabulary is not None:
            return cls(config, given_vocabulary(config, list))
        totals = np.zeros(CODE_POINTS, np.int64)
        for lines in chunks:
            totals += np.bincount(_code_points("".join(lines)), minlength=CODE_POINTS)
        counts = {chr(point): int(totals[point]) for point in np.flatnonzero(totals)}
        return cls(config, counted_vocabulary(counts, config))

    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        return self._ids[_code_points("".join(lines))], np.fromiter(map(len, lines), np.int64, len(lines))

    def word_marks(self) -> tuple[np.ndarray | None, int | None]:
        return None, int(self._ids[ord(" ")])

    def _decode(self, ids: list[int]) -> str:
        return "".join(self.unknown if i == UNK else self.vocabulary.symbols[i] for i in ids)

    def _texts(self, line: str) -> list[str]:
        return list(line)

    def _joined(self, texts: list[str]) -> str:
        return "".join(texts)


def _code_points(text: str) -> np.ndarray:
    """Code points of a text, uint32 [number of characters]."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))
