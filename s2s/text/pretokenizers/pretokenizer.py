"""What a pre-tokenizer does: it rewrites a line before a tokenizer sees it, and takes the rewriting back.

It is part of the tokenizer (`tokenizer.pre=NAME`): learning, encoding, sampling, given vocabularies, prefixes and
constraints see rewritten lines, and decoding undoes the rewriting.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar


class PreTokenizer(ABC):
    """Rewrites lines. What `apply` makes of a line in one of the normal forms in `forms`, `undo` makes the line of.

    Args:
        config: Its `Config`.
    """

    Config: ClassVar[Any]
    forms: ClassVar[tuple[str, ...]] = ("none", "nfc", "nfkc")  # values of tokenizer.normalization that it goes with
    alphabet: ClassVar[str] = ""  # characters for which SentencePiece has pieces, in the training text or not

    def __init__(self, config: Any):
        self.config = config

    @classmethod
    def reverses(cls, config: Any) -> bool:
        """Whether `undo` is exact with these options. A target needs that."""
        return True

    @abstractmethod
    def apply(self, line: str) -> str:
        """A line as the tokenizer sees it: not blank if the line is not, and without line feeds."""

    @abstractmethod
    def undo(self, text: str) -> str:
        """The line of a text that `apply` has made, and something readable of any other text."""

    def save(self, folder: Path, name: str) -> None:  # noqa: B027
        """Write what `load` reads into files called `name.*`; the config is written elsewhere."""

    @classmethod
    def load(cls, config: Any, folder: Path, name: str) -> "PreTokenizer":
        """Read what `save` wrote. Raises UserError naming the file that is missing or wrong."""
        return cls(config)
