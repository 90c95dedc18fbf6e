"""Tokenizer into bytes of UTF-8: 256 symbols for any language; nothing is learned, and nothing is unknown."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from s2s.config.schema import option
from s2s.text.tokenizer import Tokenizer, TokenizerConfig
from s2s.text.vocabulary import SPECIALS, Vocabulary

FIRST = len(SPECIALS)  # the id of byte 0


@dataclasses.dataclass
class ByteConfig(TokenizerConfig):
    """Options of the byte tokenizer."""

    type: str = option("bytes", "component")
    joint: bool = option(True, "always true: both sides have the same 256 symbols", choices=(True,))


class ByteTokenizer(Tokenizer):
    """Splits a line into its UTF-8 bytes (ByT5, arXiv:2105.13626)."""

    Config = ByteConfig

    @classmethod
    def _learn(cls, config: ByteConfig, chunks: Iterable[list[str]], seed: int) -> "ByteTokenizer":
        return cls(config, Vocabulary([*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]))

    def _encode(self, lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [line.encode("utf-8", "surrogatepass") for line in lines]
        ids = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int32) + FIRST
        return ids, np.fromiter(map(len, encoded), np.int64, len(encoded))

    def word_marks(self) -> tuple[np.ndarray | None, int | None]:
        return None, FIRST + ord(" ")

    def _decode(self, ids: list[int]) -> str:
        """An unknown symbol becomes U+FFFD."""
        return readable(b"".join(bytes((i - FIRST,)) if i >= FIRST else "\ufffd".encode() for i in ids))


def readable(data: bytes) -> str:
    """Decode bytes to text. Bytes that are not valid UTF-8, which a model may emit, are left out. This keeps as many
    characters as possible: the same as the dynamic programming for byte-level subwords (arXiv:1909.03341), since valid
    UTF-8 characters never overlap."""
    return data.decode(errors="ignore")
