"""A split of a store, or of several stores that are read as one, with its columns by name."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from s2s.config.documents import parse_json
from s2s.config.shapes import mapping
from s2s.data.blocks import Blocks
from s2s.data.columns import Column
from s2s.data.directions import LANGUAGES
from s2s.data.ragged import Ragged
from s2s.errors import UserError

AGAIN = "make the store again"


class Holder(Protocol):
    """The interface of a store that a split needs."""

    path: Path
    task: str
    manifest: dict[str, Any]
    source_language: str
    target_language: str

    def columns(self, split: str) -> dict[str, Column]: ...

    def longest(self, split: str, column: str) -> int: ...

    def blocks(self, path: Path) -> Blocks: ...


class CorpusRange(NamedTuple):
    """The range of a corpus's examples in a split, first ... last - 1; empty if all were dropped by filters."""

    name: str
    first: int
    last: int
    source_language: str
    target_language: str
    tags: tuple[tuple[str, str], ...] = ()  # further ones: name and value


class Split:
    """A split of one or more stores. Its columns are read on demand.

    Args:
        name: Name of the split.
        stores: The stores that have it.

    Attributes:
        columns: Name -> column, for the columns that all stores have.

    Raises:
        UserError: a column differs between the stores.
    """

    def __init__(self, name: str, stores: list[Holder]):
        self.name = name
        self._stores = [(store, store.manifest["splits"][name]) for store in stores]
        self.columns = stores[0].columns(name)
        for store in stores[1:]:
            other = store.columns(name)
            for column in set(self.columns) & set(other):
                if self.columns[column] != other[column]:
                    raise UserError(f"{store.path}: the column {column} of split '{name}' differs from that of "
                                    f"{stores[0].path}; stores that are read as one must agree")  # fmt: skip
            self.columns = {key: column for key, column in self.columns.items() if key in other}
        self._ragged = {key: self._open(column) for key, column in self.columns.items()}

    def parts(self) -> list["Split"]:
        """The part of each store, in order."""
        return [Split(self.name, [store]) for store, _ in self._stores]

    @property
    def task(self) -> str:
        """The task for which the first store was made."""
        return self._stores[0][0].task

    @property
    def place(self) -> str:
        """The folder of the first store."""
        return str(self._stores[0][0].path)

    def __len__(self) -> int:
        return sum(facts["pairs"] for _, facts in self._stores)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def lengths(self, column: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """Lengths of the examples first ... last - 1 in a column, int32 [last - first]: numbers of tokens, of rows of
        an array, or of bytes of text. They are read on every call.

        Raises:
            IndexError: there are no such examples.
            UserError: there is no such column, or a file cannot be read or is damaged; the message names it. All
                methods that read raise it.
        """
        values = self._column(column).lengths(first, len(self) if last is None else last)
        return values if self.columns[column].width == 1 else values // np.int32(self.columns[column].width)

    def longest(self, column: str) -> int:
        """The largest of the `lengths`, from the manifest."""
        self._column(column)
        return max(store.longest(self.name, column) for store, _ in self._stores) // self.columns[column].width

    @property
    def corpora(self) -> list[CorpusRange]:
        """The range of examples of each corpus; together they are the whole split, in order."""
        ranges, first = [], 0
        for store, facts in self._stores:
            for corpus in facts["corpora"]:
                last = first + corpus["kept"]
                source, target = (corpus.get(key, getattr(store, key)) for key in LANGUAGES)
                tags = tuple(corpus.get("tags", {}).items())
                ranges.append(CorpusRange(corpus["name"], first, last, source, target, tags))
                first = last
        return ranges

    def gather(self, column: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read the values of examples in a column.

        Args:
            column: Name of the column.
            examples: Example numbers in any order, integers [B].

        Returns:
            values: Concatenated values of the examples: token ids, int64 [sum of lengths], without EOS; or an array in
                its own type, [sum of lengths, width] ([sum of lengths] if width is 1).
            lengths: Length of each example, int64 [B].

        Raises:
            IndexError: there is no such example.
        """
        values, lengths = self._column(column).gather(examples)
        kind = self.columns[column]
        if kind.kind == "tokens":
            return values.astype(np.int64), lengths
        if kind.width == 1:
            return values, lengths
        return values.reshape(-1, kind.width), lengths // kind.width

    def row(self, column: str, example: int) -> np.ndarray:
        """The values of one example in a column."""
        return self.gather(column, np.array([example]))[0]

    def lines(self, column: str, examples: np.ndarray | None = None) -> list[str]:
        """Read the lines of a column of text.

        Args:
            column: Name of the column.
            examples: Example numbers in any order, integers [B]; None: all.

        Raises:
            IndexError: there is no such example.
            UserError: the split has no such text.
        """
        ragged = self._column(column)
        if examples is None:
            return self._all_lines(column)
        text, _ = ragged.gather(examples)
        return _lines(text.tobytes(), len(examples), f"{self._stores[0][0].path}: the {column} of '{self.name}'")

    def known(self, examples: np.ndarray | None = None) -> list[dict[str, Any]] | None:
        """Facts about examples (None: all), from the columns of JSON: an object for each. None: there is no such
        column."""
        columns = [name for name, column in self.columns.items() if column.kind == "json"]
        if not columns:
            return None
        facts: list[dict[str, Any]] = [{} for _ in range(len(self) if examples is None else len(examples))]
        for column in columns:
            where = f"{self._stores[0][0].path}: the {column} of an example of '{self.name}'"
            for own, line in zip(facts, self.lines(column, examples), strict=True):
                own |= parse_json(line, where, mapping(object))
        return facts

    def _all_lines(self, column: str) -> list[str]:
        lines = []
        for store, path, count in self._shards(column):
            store.blocks(path).check_all()
            lines += _lines(path.read_bytes(), count, path)
        return lines

    def _column(self, name: str) -> Ragged:
        if name in self._ragged:
            return self._ragged[name]
        store = next(store for store, _ in self._stores if name not in store.columns(self.name))
        if name.endswith(".text"):
            raise UserError(f"{store.path}: split '{self.name}' has no raw text ({name}); make the store with "
                            "keep_text=true")  # fmt: skip
        names = ", ".join(store.columns(self.name))
        raise UserError(f"{store.path}: split '{self.name}' has no column {name}; it has {names}")

    def _open(self, column: Column) -> Ragged:
        """The rows of a column, from all shards of all stores."""
        stores = {store.path: store for store, _ in self._stores}
        return Ragged([shard[1:] for shard in self._shards(column.name)], column.dtype, partial(_blocks, stores))

    def _shards(self, column: str) -> list[tuple[Holder, Path, int]]:
        """The store, the file of values and the number of rows of each shard of a column."""
        return [
            (store, store.path / shard_file(self.name, shard, column), pairs)
            for store, facts in self._stores
            for shard, pairs in enumerate(facts["shards"])
        ]


def _blocks(stores: dict[Path, Holder], path: Path) -> Blocks:
    return stores[path.parent].blocks(path)


def _lines(text: bytes, count: int, where: str | Path) -> list[str]:
    try:
        lines = text.decode().split("\n")[:-1]
    except UnicodeDecodeError:
        lines = []
    if len(lines) != count:
        raise UserError(f"{where}: changed since the store was made; {AGAIN}")
    return lines


def shard_file(split: str, shard: int, column: str) -> str:
    """The name of the file of values of a shard."""
    return f"{split}-{shard:05d}.{column}"
