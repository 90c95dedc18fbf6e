"""SentencePiece with a vocabulary of its own, as Marian, fairseq and OpenNMT have it: the model cuts a line into
pieces, and a file says which pieces are symbols, and in which order. Both sides may share the symbols, though each has
a model of its own."""

import dataclasses
import re
from functools import cached_property

import numpy as np

from s2s.config.schema import option
from s2s.text.from_file import FileTokenizer
from s2s.text.sampling import SPACE
from s2s.text.sentencepiece import processor_of
from s2s.text.tokenizer import TokenizerConfig
from s2s.text.vocabulary import UNK, Vocabulary

CODE = re.compile(r">>.*?<<")  # the language of the target, in front of the source (OPUS-MT)


@dataclasses.dataclass
class PiecesConfig(TokenizerConfig):
    """Options of the tokenizer."""

    type: str = option("pieces", "component")
    normalization: str = option("none", "Unicode normalisation of every line, before that of the model",
                                choices=("none", "nfc", "nfkc"))  # fmt: skip
    model: str | None = option(None, "SentencePiece model file, which cuts lines into pieces")
    vocabulary: str | None = option(None, "file of the pieces that are symbols, one per line; others are unknown")
    codes: bool = option(False, "a line may begin with a symbol such as >>fra<<, which is not cut")


class PiecesTokenizer(FileTokenizer):
    """Splits lines into the pieces of a SentencePiece model, which are looked up in a vocabulary.

    Args:
        config: Its config.
        model: A serialised SentencePiece model.
        vocabulary: The symbols.

    Raises:
        ValueError: `model` is not a serialised model.
    """

    Config = PiecesConfig
    widens = True
    ending, kind = "spm.model", "SentencePiece model"
    unknown = " \u2047 "

    def __init__(self, config: PiecesConfig, model: bytes, vocabulary: Vocabulary):
        self.model, self._processor = model, processor_of(model)
        super().__init__(config, vocabulary)
        self._ids = self._ids_of_symbols()
        pieces = self._processor.id_to_piece(list(range(self._processor.get_piece_size())))
        self._ours = np.array([self._ids.get(piece, UNK) for piece in pieces], np.int32)

    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        codes, texts = zip(*map(self._split, lines), strict=True) if lines else ((), ())
        rows = self._processor.encode(list(texts), out_type=int, num_threads=1)
        found = [self._row(text, row) for text, row in zip(texts, rows, strict=True)]
        if any(codes):
            found = [np.insert(row, 0, self._ids.get(code, UNK)) if code else row
                     for code, row in zip(codes, found, strict=True)]  # fmt: skip
        lengths = np.fromiter(map(len, found), np.int64, len(found))
        return np.concatenate([np.zeros(0, np.int32), *found]).astype(np.int32), lengths

    def _split(self, line: str) -> tuple[str, str]:
        """The code that a line begins with, perhaps empty, and the rest."""
        match = CODE.match(line) if self.config.codes else None
        return (match[0], line[match.end() :]) if match else ("", line)

    def _row(self, line: str, pieces: list[int]) -> np.ndarray:
        """The ids of a line; pieces: those of the model. A text that is no piece of it may still be a symbol."""
        if self._processor.unk_id() not in pieces:
            return self._ours[pieces]
        texts = self._processor.encode(line, out_type=str)
        return np.array([self._ids.get(text, UNK) for text in texts], np.int32)

    def _decode(self, ids: list[int]) -> str:
        return self._joined([self._spelled[i] for i in ids]).strip()

    @cached_property
    def _spelled(self) -> list[str]:
        """The piece of each symbol."""
        unknown = self._processor.id_to_piece(self._processor.unk_id())
        return [unknown if i == UNK else symbol for i, symbol in enumerate(self.vocabulary.symbols)]

    def _texts(self, line: str) -> list[str]:
        code, text = self._split(line)
        return [code] * bool(code) + self._processor.encode(text, out_type=str)

    def _joined(self, texts: list[str]) -> str:
        return self._processor.decode(texts).replace(SPACE, " ")
