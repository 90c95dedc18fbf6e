"""Tokenizers that are not learned, but read from a file of another toolkit."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from s2s.config.streams import content, is_there
from s2s.errors import UserError
from s2s.files import write
from s2s.text.tokenizer import LearningError, Tokenizer
from s2s.text.vocabulary import SPECIALS, Vocabulary, read_symbols


class FileTokenizer(Tokenizer):
    """A tokenizer of a file. The constructor takes its config, the content of the file, which stays in `self.model`,
    and the vocabulary; it raises ValueError if the content is something else.

    Attributes:
        source: Option of the config that names the file.
        ending: Ending of the saved copy of the file.
        kind: What the file is, for messages.
        lists_symbols: Whether the option `vocabulary` names a file of the symbols; otherwise the file has them.
    """

    source: ClassVar[str] = "model"
    ending: ClassVar[str]
    kind: ClassVar[str]
    lists_symbols: ClassVar[bool] = True
    model: bytes

    @classmethod
    def _learn(cls, config: Any, chunks: Iterable[list[str]], seed: int) -> "FileTokenizer":
        path = getattr(config, cls.source)
        if path is None or (cls.lists_symbols and config.vocabulary is None):
            symbols = ", and vocabulary=FILE, its symbols" if cls.lists_symbols else ""
            raise LearningError(f"tokenizer={config.type} requires {cls.source}=FILE, a {cls.kind}{symbols}; "
                                "tokenizer=sentencepiece learns pieces from the text")  # fmt: skip
        if not cls.lists_symbols:
            return cls._read(config, path, None)
        symbols = [*SPECIALS, *dict.fromkeys(symbol for _, symbol in read_symbols(config.vocabulary))]
        return cls._read(config, path, Vocabulary(symbols))

    def facts(self) -> dict[str, Any]:
        """As Tokenizer, without the names of files."""
        return {key: value for key, value in super().facts().items() if key not in (self.source, "vocabulary")}

    def save(self, folder: Path, name: str) -> None:
        """As Tokenizer."""
        super().save(folder, name)
        write(Path(folder) / f"{name}.{self.ending}", self.model)

    @classmethod
    def _load(cls, config: Any, folder: Path, name: str) -> "FileTokenizer":
        path = folder / f"{name}.vocabulary.txt"
        try:
            vocabulary = Vocabulary.load(path).without(config.reserved)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from error
        return cls._read(config, folder / f"{name}.{cls.ending}", vocabulary)

    @classmethod
    def _read(cls, config: Any, path: str | Path, vocabulary: Vocabulary | None) -> "FileTokenizer":
        """The tokenizer of a file. Raises UserError."""
        if not is_there(path):
            raise UserError(f"{path}: no such {cls.kind}")
        try:
            return cls(config, content(path), vocabulary)  # type: ignore[arg-type,call-arg]
        except ValueError as error:
            raise UserError(f"{path}: not a {cls.kind}: {error}") from error

    def _ids_of_symbols(self) -> dict[str, int]:
        """The id of each symbol. A piece that is spelled like a special symbol is not that symbol."""
        return {symbol: i for i, symbol in enumerate(self.vocabulary.symbols) if i >= len(SPECIALS)}
