"""A split of a store, or of several that are read as one: its columns, by name."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from s2s.config.documents import parse_json
from s2s.config.shapes import mapping
from s2s.data.blocks import Blocks
from s2s.data.columns import Column
from s2s.data.ragged import Ragged
from s2s.errors import UserError

AGAIN = "make the store again"


class Holder(Protocol):
    """What a split needs of a store."""

    path: Path
    manifest: dict[str, Any]
    source_language: str
    target_language: str

    def columns(self, split: str) -> dict[str, Column]: ...

    def longest(self, split: str, column: str) -> int: ...

    def blocks(self, path: Path) -> Blocks: ...


class CorpusRange(NamedTuple):
    """Where the examples of a corpus lie in a split: first ... last - 1. None is left of one that is filtered away."""

    name: str
    first: int
    last: int
    source_language: str
    target_language: str


class Split:
    """One split of one or more stores: its columns, which are read when asked for.

    Args:
        name: Of the split.
        stores: Stores that have it.

    Attributes:
        columns: By name, those that all of the stores have.

    Raises:
        UserError: a column that is not the same in all of them.
    """

    def __init__(self, name: str, stores: list[Holder]):
        self.name = name
        self._stores = [(store, store.manifest["splits"][name]) for store in stores]
        self.columns = stores[0].columns(name)
        for store in stores[1:]:
            other = store.columns(name)
            for column in set(self.columns) & set(other):
                if self.columns[column] != other[column]:
                    raise UserError(f"{store.path}: the column {column} of split '{name}' is not that of "
                                    f"{stores[0].path}; stores that are read as one need the same")  # fmt: skip
            self.columns = {key: column for key, column in self.columns.items() if key in other}
        self._ragged = {key: self._open(column) for key, column in self.columns.items()}

    def __len__(self) -> int:
        return sum(facts["pairs"] for _, facts in self._stores)

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    def lengths(self, column: str, first: int = 0, last: int | None = None) -> np.ndarray:
        """How many tokens, rows of an array or bytes of text the examples first ... last - 1 have in a column, int32
        [last - first]. They are read now, and nothing of them is kept.

        Raises:
            IndexError: examples that are not there.
            UserError: no such column; a file that cannot be read or is damaged, by name; this holds for all that is
                read here.
        """
        values = self._column(column).lengths(first, len(self) if last is None else last)
        return values if self.columns[column].width == 1 else values // np.int32(self.columns[column].width)

    def longest(self, column: str) -> int:
        """The greatest of the `lengths`, from the manifest."""
        self._column(column)
        return max(store.longest(self.name, column) for store, _ in self._stores) // self.columns[column].width

    @property
    def corpora(self) -> list[CorpusRange]:
        """Where the examples of each corpus lie; together they are the whole split, in its order."""
        ranges, first = [], 0
        for store, facts in self._stores:
            for corpus in facts["corpora"]:
                last = first + corpus["kept"]
                ranges.append(CorpusRange(corpus["name"], first, last, store.source_language, store.target_language))
                first = last
        return ranges

    def gather(self, column: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What examples of any numbers in any order have in a column.

        Args:
            column: Its name.
            examples: Their numbers, integers [B].

        Returns:
            values: Of all these examples, one after the other: ids, int64 [sum of lengths], without EOS; of an array
                [sum of lengths, width], or [sum of lengths] where width is 1, in its type.
            lengths: Of each example, int64 [B].

        Raises:
            IndexError: an example that is not there.
        """
        values, lengths = self._column(column).gather(examples)
        kind = self.columns[column]
        if kind.kind == "tokens":
            return values.astype(np.int64), lengths
        if kind.width == 1:
            return values, lengths
        return values.reshape(-1, kind.width), lengths // kind.width

    def row(self, column: str, example: int) -> np.ndarray:
        """What one example has in a column."""
        return self.gather(column, np.array([example]))[0]

    def lines(self, column: str, examples: np.ndarray | None = None) -> list[str]:
        """The lines of a column of text of examples of any numbers in any order, or of all.

        Raises:
            IndexError: an example that is not there.
            UserError: the split has no such text.
        """
        ragged = self._column(column)
        if examples is None:
            return self._all_lines(column)
        text, _ = ragged.gather(examples)
        return _lines(text.tobytes(), len(examples), f"{self._stores[0][0].path}: the {column} of '{self.name}'")

    def known(self, examples: np.ndarray | None = None) -> list[dict[str, Any]] | None:
        """What the store knows of examples, or of all: the objects of its columns of JSON; None: it has no such
        column."""
        columns = [name for name, column in self.columns.items() if column.kind == "json"]
        if not columns:
            return None
        found: list[dict[str, Any]] = [{} for _ in range(len(self) if examples is None else len(examples))]
        for column in columns:
            where = f"{self._stores[0][0].path}: the {column} of an example of '{self.name}'"
            for one, line in zip(found, self.lines(column, examples), strict=True):
                one |= parse_json(line, where, mapping(object))
        return found

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
        has = ", ".join(store.columns(self.name))
        raise UserError(f"{store.path}: split '{self.name}' has no column {name}; it has {has}")

    def _open(self, column: Column) -> Ragged:
        """The rows of a column, of all shards of all stores."""
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
    """The name of a shard's file of values."""
    return f"{split}-{shard:05d}.{column}"
