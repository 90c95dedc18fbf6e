"""Symbols and their numbers. The first four are the same everywhere."""

import hashlib
from functools import cached_property
from pathlib import Path

from s2s.errors import UserError

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")


class Vocabulary:
    """An ordered list of distinct symbols: a symbol's id is its place.

    Args:
        symbols: All symbols; the first four are `<pad> <unk> <s> </s>`, none holds a line feed.

    Raises:
        ValueError: other first symbols, a symbol twice, or a symbol that a line cannot hold.
    """

    def __init__(self, symbols: list[str]):
        if tuple(symbols[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"a vocabulary starts with {' '.join(SPECIALS)}")
        self.symbols = symbols
        self._index = {symbol: index for index, symbol in enumerate(symbols)}
        if len(self._index) != len(symbols):
            twice = next(symbol for index, symbol in enumerate(symbols) if self._index[symbol] != index)
            raise ValueError(f"symbol {twice!r} is there twice")
        if any("\n" in symbol for symbol in symbols):
            raise ValueError("a symbol holds a line feed")

    def __len__(self) -> int:
        return len(self.symbols)

    def index(self, symbol: str) -> int:
        """The id of a symbol, `UNK` for one that is not here."""
        return self._index.get(symbol, UNK)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the symbols in their order: two vocabularies are the same if and only if this is."""
        return hashlib.sha256("\n".join(self.symbols).encode("utf-8", "surrogatepass")).hexdigest()

    def save(self, path: Path) -> None:
        """Write one symbol a line."""
        Path(path).write_bytes("".join(f"{symbol}\n" for symbol in self.symbols).encode())

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            UserError: not a vocabulary; the message names the file.
        """
        try:
            return cls(Path(path).read_bytes().decode().split("\n")[:-1])
        except ValueError as error:  # UnicodeDecodeError is one
            raise UserError(f"{path}: not a vocabulary: {error}") from error

    @classmethod
    def from_user(cls, path: Path) -> "Vocabulary":
        """Read a list of symbols that somebody wrote: one a line, the special ones first or not there at all.

        Raises:
            UserError: naming file and line of an empty line or a symbol that is there twice.
        """
        if not Path(path).is_file():
            raise UserError(f"{path}: no such vocabulary file")
        try:
            lines = Path(path).read_bytes().decode().removesuffix("\n").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: invalid UTF-8 at byte {error.start}") from error
        symbols = [line.removesuffix("\r") or line for line in lines]
        first = len(SPECIALS) if tuple(symbols[: len(SPECIALS)]) == SPECIALS else 0
        seen = dict.fromkeys(SPECIALS, 0)
        for number, symbol in enumerate(symbols[first:], first + 1):
            if not symbol:
                raise UserError(f"{path}:{number}: empty line; one symbol a line is needed")
            if symbol in seen:
                where = f"line {seen[symbol]}" if seen[symbol] else "the special symbols"
                raise UserError(f"{path}:{number}: symbol {symbol!r} is there twice (also in {where})")
            seen[symbol] = number
        return cls(list(seen))
