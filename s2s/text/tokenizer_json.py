"""Tokenizers of the library `tokenizers`, in its own file tokenizer.json: the byte pairs of GPT-2 and BART, and others.
The library is optional, and imported when such a tokenizer is made."""

import dataclasses
from typing import Any

import numpy as np

from s2s.config.schema import option
from s2s.errors import UserError, install
from s2s.text.from_file import FileTokenizer
from s2s.text.tokenizer import TokenizerConfig
from s2s.text.vocabulary import SPECIALS, UNK, Vocabulary


@dataclasses.dataclass
class TokenizerJsonConfig(TokenizerConfig):
    """Options of the tokenizer."""

    type: str = option("tokenizer_json", "component")
    normalization: str = option("none", "Unicode normalisation of every line, before that of the file",
                                choices=("none", "nfc", "nfkc"))  # fmt: skip
    model: str | None = option(None, "tokenizer.json of the library tokenizers")


class TokenizerJsonTokenizer(FileTokenizer):
    """Splits lines as a tokenizer.json says.

    Args:
        config: Its config.
        model: The content of the file.
        vocabulary: The symbols; None: those of the file, in their order. Others of the file are unknown.

    Raises:
        ValueError: `model` is not such a file.
        UserError: the library is not installed.
    """

    Config = TokenizerJsonConfig
    ending, kind, lists_symbols = "library.json", "tokenizer.json", False

    def __init__(self, config: TokenizerJsonConfig, model: bytes, vocabulary: Vocabulary | None = None):
        self.model, self._library = model, library().Tokenizer
        try:
            self._tokenizer = self._library.from_str(model.decode())
        except Exception as error:  # the library raises plain ones
            raise ValueError(" ".join(str(error).split())) from error
        self._tokenizer.no_truncation()  # the file may have both, for batches of its own toolkit
        self._tokenizer.no_padding()
        known = self._tokenizer.get_vocab(with_added_tokens=True)
        if vocabulary is None:
            beside = {*SPECIALS, *config.reserved}
            vocabulary = Vocabulary([*SPECIALS, *(name for name in sorted(known, key=known.get) if name not in beside)])
        super().__init__(config, vocabulary)
        symbols = self._ids_of_symbols()
        self._ours = np.full(max(known.values(), default=0) + 1, UNK, np.int32)
        self._theirs = np.full(len(self.vocabulary), known.get(SPECIALS[UNK], 0))
        for name, number in known.items():
            if name in symbols:
                self._theirs[symbols[name]] = number
                if name not in config.reserved:  # these never occur in text
                    self._ours[number] = symbols[name]

    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        rows = [each.ids for each in self._tokenizer.encode_batch(list(lines), add_special_tokens=False)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        ids = np.fromiter((number for row in rows for number in row), np.int64, lengths.sum())
        return self._ours[ids], lengths

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(self._theirs[ids].tolist(), skip_special_tokens=False)

    def word_marks(self) -> tuple[np.ndarray | None, int | None]:
        return np.array([symbol[:1] in ("\u2581", "\u0120") for symbol in self.vocabulary.symbols]), None


def library() -> Any:
    """The library `tokenizers`. Raises UserError: it is not installed."""
    try:
        import tokenizers
    except ImportError as error:
        raise UserError(f"tokenizer=tokenizer_json requires the package tokenizers: {install('import')}") from error
    return tokenizers


def byte_pairs(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> bytes:
    """The tokenizer.json of GPT-2's byte pairs. Raises ValueError: merges that do not fit the vocabulary."""
    lib = library()
    try:
        made = lib.Tokenizer(lib.models.BPE(vocab=vocabulary, merges=merges))
    except Exception as error:  # the library raises plain ones
        raise ValueError(" ".join(str(error).split())) from error
    made.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = lib.decoders.ByteLevel()
    return made.to_str().encode()
