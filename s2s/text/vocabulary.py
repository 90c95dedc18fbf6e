"""Vocabularies: symbols and their ids. The first four symbols are the same in all vocabularies."""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from s2s.config.streams import content, is_there
from s2s.errors import UserError
from s2s.files import write

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")
MASK = "<mask>"  # the usual name of a reserved symbol
RESERVED = re.compile(r"<(?!0x)[^\s<>]+>")

NEEDED = "one symbol a line is needed, with a number after each of them or after none"
NUMBER = r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
COUNTED = re.compile(rf"(\S+|.)[ \t]+{NUMBER}(?: #fairseq:overwrite)?[ \t]*")
YAML = re.compile(r".*:[ \t]+\d+[ \t]*")


class Vocabulary:
    """An ordered list of distinct symbols. The id of a symbol is its index.

    Args:
        symbols: All symbols. The first four are `<pad> <unk> <s> </s>`; none contains a line feed.
        reserved: Number of reserved symbols at the end, which never occur in text.

    Attributes:
        reserved: Ids of the reserved symbols by name.

    Raises:
        ValueError: the first symbols are others, a symbol appears twice, or a symbol contains a line feed.
    """

    def __init__(self, symbols: list[str], reserved: int = 0):
        if tuple(symbols[: len(SPECIALS)]) != SPECIALS:
            raise ValueError(f"a vocabulary starts with {' '.join(SPECIALS)}")
        self.symbols = symbols
        self._index = {symbol: index for index, symbol in enumerate(symbols)}
        if len(self._index) != len(symbols):
            twice = next(symbol for index, symbol in enumerate(symbols) if self._index[symbol] != index)
            raise ValueError(f"symbol {twice!r} appears twice")
        if any("\n" in symbol for symbol in symbols):
            raise ValueError("a symbol holds a line feed")
        self.reserved = {symbol: self._index.pop(symbol) for symbol in symbols[len(symbols) - reserved :]}

    def __len__(self) -> int:
        return len(self.symbols)

    def index(self, symbol: str) -> int:
        """The id of a symbol of texts; `UNK` if the vocabulary does not have it."""
        return self._index.get(symbol, UNK)

    def with_reserved(self, names: Sequence[str]) -> "Vocabulary":
        """This vocabulary with reserved symbols at the end. A symbol of texts that is spelt like one of them gets a
        backslash before it.

        Raises:
            UserError: a name is not of the form `<...>`, is one of `SPECIALS`, or appears twice.
        """
        if not names:
            return self
        for name in names:
            if not RESERVED.fullmatch(name) or name in SPECIALS or list(names).count(name) > 1:
                raise UserError(
                    f"reserved={','.join(names)}: {name!r}: a name of its own in <>, such as {MASK}, is needed"
                )
        symbols, known = list(self.symbols), {*self.symbols, *names}
        for place, symbol in enumerate(symbols):
            if symbol in names:
                while symbol in known:
                    symbol = f"\\{symbol}"
                symbols[place] = symbol
                known.add(symbol)
        return Vocabulary([*symbols, *names], len(names))

    def without(self, names: Sequence[str]) -> "Vocabulary":
        """This vocabulary without its reserved symbols. Raises ValueError if its last symbols are not `names`."""
        if names and self.symbols[-len(names) :] != list(names):
            raise ValueError(f"its last symbols must be {' '.join(names)}")
        return Vocabulary(self.symbols[: len(self.symbols) - len(names)])

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the symbols in their order. Vocabularies are equal if and only if their digests are."""
        return hashlib.sha256("\n".join(self.symbols).encode("utf-8", "surrogatepass")).hexdigest()

    def save(self, path: Path) -> None:
        """Write one symbol per line."""
        write(path, "".join(f"{symbol}\n" for symbol in self.symbols))

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Read what `save` wrote.

        Raises:
            UserError: the file is not a vocabulary; the message names it.
        """
        try:
            return cls(Path(path).read_bytes().decode().split("\n")[:-1])
        except ValueError as error:  # UnicodeDecodeError is one
            raise UserError(f"{path}: not a vocabulary: {error}") from error


def read_symbols(path: str) -> list[tuple[int, str]]:
    """Read a list of symbols from another toolkit: one per line, optionally each with a number after it, as in
    fairseq's dict.txt, SentencePiece's .vocab and Kaldi's words.txt. The numbers are ignored.

    Returns:
        Line number and symbol. The special symbols, which every vocabulary has, are left out.

    Raises:
        UserError: the file is missing, is not UTF-8, is JSON or YAML, or has an empty line; the message names file and
            line.
    """
    if not is_there(path):
        raise UserError(f"{path}: no such vocabulary file")
    block = content(path)
    try:
        text = block.decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        line = block.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: invalid UTF-8 at byte {error.start} of the file; convert it") from error
    lines = [line.removesuffix("\r") or line for line in text.split("\n")]
    if _is_json(text):
        raise UserError(f"{path}:1: is JSON; {NEEDED}")
    if all(map(YAML.fullmatch, lines)):
        raise UserError(f"{path}:1: is YAML, a number for each symbol; {NEEDED}")
    counted = [match[1] for match in map(COUNTED.fullmatch, lines) if match]
    if len(counted) == len(lines):
        lines = counted
    if "" in lines:
        raise UserError(f"{path}:{lines.index('') + 1}: empty line; {NEEDED}")
    return [(number, line) for number, line in enumerate(lines, 1) if line not in SPECIALS]


def _is_json(text: str) -> bool:
    """Whether a text is a JSON object or list that contains text."""
    if text.strip()[:1] not in ("{", "[") or '"' not in text:
        return False
    try:
        return bool(json.loads(text))
    except (ValueError, RecursionError):
        return False
