"""The interface of pre-tokenizers, which rewrite a line before the tokenizer reads it, and undo the rewriting.

A pre-tokenizer is part of the tokenizer (`tokenizer.pre=NAME`): learning, encoding, sampling, given vocabularies,
prefixes and constraints read rewritten lines, and decoding undoes the rewriting.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar


class PreTokenizer(ABC):
    """Rewrites lines. For a line in one of the normal forms `forms`, `undo` is the inverse of `apply`.

    Args:
        config: The options, an instance of `Config`.
    """

    Config: ClassVar[Any]
    forms: ClassVar[tuple[str, ...]] = ("none", "nfc", "nfkc")  # values of tokenizer.normalization that it goes with
    whole: ClassVar[bool] = False  # whether it rewrites a line as a whole, so that parts of it cannot be rewritten
    alphabet: ClassVar[str] = ""  # characters for which SentencePiece has pieces, in the training text or not

    def __init__(self, config: Any):
        self.config = config

    @classmethod
    def reverses(cls, config: Any) -> bool:
        """Whether `undo` is exact with these options. A target needs that."""
        return True

    @abstractmethod
    def apply(self, line: str) -> str:
        """The line that the tokenizer reads. It has no line feeds, and is blank only if `line` is blank."""

    @abstractmethod
    def undo(self, text: str) -> str:
        """The inverse of `apply`. Any other text becomes a readable line."""

    def save(self, folder: Path, name: str) -> None:  # noqa: B027
        """Write the files `name.*` for `load`. The caller writes the config."""

    @classmethod
    def load(cls, config: Any, folder: Path, name: str) -> "PreTokenizer":
        """Read the files of `save`. Raises UserError, with the name of a missing or wrong file."""
        return cls(config)
