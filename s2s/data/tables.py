"""Corpora in tables: TSV with chosen columns, JSON lines, Parquet files, and saved datasets of Hugging Face.

A column is a number from 1 (TSV without a header line), a name of the header line, a key of the objects, or a field; a
dot leads into a nested one, as in `translation.de`. Line breaks in a value become spaces, since a line is an example.
"""

import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s2s.config.documents import read_json
from s2s.data.corpus import ENDINGS, SIDES, Chunk, Corpus, is_table, warn_of_header
from s2s.data.lines import MAX_LINE_BYTES, LineReader, decode_text, too_long
from s2s.errors import UserError, install

BREAKS = str.maketrans("\r\n", "  ")
ROWS = 4096  # rows of a Parquet file or a dataset that are in memory at once
STATE = "state.json"  # of a saved dataset


def find(name: str, endings: Sequence[str], max_line_bytes: int = MAX_LINE_BYTES, names: Sequence[str] = SIDES,
         columns: Sequence[str] = ()) -> Corpus:  # fmt: skip
    """A corpus: a table if its name says so, otherwise as `Corpus.find`.

    Args:
        name, endings, max_line_bytes, names: As in `Corpus.find`.
        columns: The columns of a table, one for each name; empty: all of a TSV file, otherwise those called as
            `endings`.

    Raises:
        UserError: there is no such file, or a column is missing.
    """
    columns = tuple(columns)
    if columns and len(columns) != len(names):
        raise UserError(f"columns={','.join(columns)}: {len(names)} columns are needed, {', '.join(names)}")
    path = Path(name)
    kind: type[TableCorpus]
    if name.endswith(tuple(f".jsonl{ending}" for ending in ENDINGS)):
        kind, columns = JsonCorpus, columns or tuple(endings)
    elif name.endswith(".parquet") or _is_dataset(path):
        kind, columns = ArrowCorpus, columns or tuple(endings)
    elif is_table(name) and columns:
        kind = TsvCorpus
    else:
        corpus = Corpus.find(name, endings, max_line_bytes, names)
        if is_table(name):
            warn_of_header(corpus.paths[0], None, endings)
        return corpus
    if not is_table(name) and not path.exists():
        raise UserError(f"{name}: no such file")
    if kind is TsvCorpus:
        plain = Corpus.find(name, endings, max_line_bytes, names)
        if all(column.isdecimal() for column in columns):
            warn_of_header(plain.paths[0], [int(column) - 1 for column in columns], endings)
        return TsvCorpus(name, plain.paths, tuple(names), max_line_bytes, columns)
    return kind(name, (path,), tuple(names), max_line_bytes, columns)


@dataclass(frozen=True)
class TableCorpus(Corpus):
    """A corpus in one table.

    Attributes:
        columns: The column of each name.
    """

    columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class TableChunk(Chunk):
    """Some rows of a text file; a worker takes the columns out of them.

    Attributes:
        columns: The column of each name.
    """

    columns: tuple[Any, ...] = ()

    def texts(self) -> list[str]:
        """As in Chunk."""
        rows = decode_text(self.parts[0], self.paths[0], self.first_line).split("\n")
        values = [self.row(row, self.where(0, place)) for place, row in enumerate(rows)]
        return ["\n".join(column) for column in zip(*values, strict=True)]

    @abstractmethod
    def row(self, row: str, where: str) -> list[str]:
        """The values of a row. Raises UserError that begins with `where`."""


class TsvChunk(TableChunk):
    """Rows of tab-separated values; `columns` are their places, from 0."""

    def row(self, row: str, where: str) -> list[str]:
        cells = row.split("\t")
        if len(cells) <= max(self.columns):
            raise UserError(f"{where}: has {len(cells)} columns; columns= asks for column {max(self.columns) + 1}")
        return [cells[place] for place in self.columns]


class JsonChunk(TableChunk):
    """JSON objects; `columns` are their keys."""

    def row(self, row: str, where: str) -> list[str]:
        try:
            values = json.loads(row)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where}: not a JSON object on one line") from error
        return [_text(_below(values, key, where), key, where) for key in self.columns]


class TsvCorpus(TableCorpus):
    """A TSV file, of which some columns are read. If these are names, the first line is a header."""

    def chunks(self) -> Iterator[Chunk]:
        """As in Corpus."""
        if numbers := [int(name) for name in self.columns if name.isdecimal()]:
            if len(numbers) < len(self.columns) or min(numbers) < 1:
                raise UserError(f"columns={','.join(self.columns)}: numbers from 1, or names of a header line")
            yield from self._selected([number - 1 for number in numbers], 0)
            return
        with closing(LineReader(self.paths[0], self.max_line_bytes)) as reader:
            header = decode_text(b"".join(reader.take(1)), str(self.paths[0]), 1).split("\t")
        if missing := [name for name in self.columns if name not in header]:
            raise UserError(f"{self.paths[0]}:1: no column is called '{missing[0]}'; the header has "
                            f"{', '.join(header)[:200]}")  # fmt: skip
        yield from self._selected([header.index(name) for name in self.columns], 1)

    def _selected(self, places: Sequence[int], skipped: int) -> Iterator[Chunk]:
        """The chunks without the first `skipped` lines."""
        if skipped and self.is_stream:
            raise UserError(f"{self.name}: a stream can be read only once, and the names of columns= are looked up in "
                            "its header; give numbers")  # fmt: skip
        for chunk in super().chunks():
            first, part = chunk.first_line, chunk.parts[0]
            if first == 1 and skipped:
                first, part = 2, part.partition(b"\n")[2]
            if part:
                yield TsvChunk(chunk.paths, first, (part,), chunk.read, self.names, columns=tuple(places))


class JsonCorpus(TableCorpus):
    """JSON lines: an object on each line."""

    def chunks(self) -> Iterator[Chunk]:
        """As in Corpus."""
        for chunk in super().chunks():
            yield JsonChunk(chunk.paths, chunk.first_line, chunk.parts, chunk.read, self.names, columns=self.columns)


class ArrowCorpus(TableCorpus):
    """A Parquet file, a folder of them, or a dataset that was saved with `save_to_disk`."""

    @property
    def size(self) -> int | None:
        """As in Corpus."""
        return sum(path.stat().st_size for path in self._files())

    def chunks(self) -> Iterator[Chunk]:
        """As in Corpus."""
        try:
            import pyarrow
        except ImportError as error:
            raise UserError(f"{self.name}: requires pyarrow: {install('tables')}") from error
        row = 1
        for path in self._files():
            read = 0
            try:
                for share, batch in _batches(path, self.columns):
                    where = (f"{path}: row {number}" for number in range(row, row + len(batch)))
                    rows = [[_text(_below(values, key, place), key, place) for key in self.columns]
                            for values, place in zip(batch, where, strict=True)]  # fmt: skip
                    if rows:
                        place = int(share * path.stat().st_size)
                        yield self._chunk(path, row, rows, place - read)
                        read = place
                    row += len(rows)
            except UnicodeDecodeError as error:
                raise UserError(f"{path}: row {row} or a later one: invalid UTF-8 in a text field") from error
            except (pyarrow.ArrowException, OSError) as error:
                raise UserError(f"{path}: is damaged, or no file of this kind") from error
        if row == 1:
            raise UserError(f"{self.name}: the corpus is empty; it must have at least one row")

    def _chunk(self, path: Path, row: int, rows: list[list[str]], read: int) -> Chunk:
        parts = tuple("".join(f"{value}\n" for value in column).encode() for column in zip(*rows, strict=True))
        longest = max(len(line) for part in parts for line in part.split(b"\n"))
        if longest > self.max_line_bytes:
            raise UserError(f"{path}: rows {row} to {row + len(rows) - 1}: {too_long(self.max_line_bytes)}")
        return Chunk((str(path),) * len(parts), row, parts, read, self.names)

    def _files(self) -> list[Path]:
        """The files of the table, in their order. Raises UserError."""
        (path,) = self.paths
        if not path.is_dir():
            return [path]
        if not (path / STATE).is_file():
            return sorted(path.glob("*.parquet"))
        state = read_json(path / STATE, {"_data_files": [{"filename": str, ...: object}], ...: object})
        if state.get("_indices_files") or state.get("_indices_data_files") or (path / "indices.arrow").exists():
            raise UserError(f"{path}: rows of this dataset were selected; call flatten_indices() before save_to_disk")
        return [path / file["filename"] for file in state["_data_files"]]


def _is_dataset(path: Path) -> bool:
    """Whether a path is a folder of a table. Raises UserError for a folder with several splits."""
    if (path / "dataset_dict.json").is_file():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / STATE).is_file())
        raise UserError(f"{path}: has several splits; choose one: {', '.join(f'{path}/{name}' for name in splits)}")
    return (path / STATE).is_file() or (path.is_dir() and next(path.glob("*.parquet"), None) is not None)


def _batches(path: Path, columns: Sequence[str]) -> Iterator[tuple[float, list[dict]]]:
    """Rows of a Parquet or Arrow file, some thousands at a time, each time after the share of all rows up to their end.
    A field that is missing is left out. A dot in a column leads into a nested field, unless a field has that name."""
    import pyarrow
    from pyarrow import ipc, parquet

    if path.suffix == ".parquet":
        with parquet.ParquetFile(path) as file:
            known = file.schema_arrow.names
            fields = (column if column in known else column.partition(".")[0] for column in columns)
            present = [name for name in dict.fromkeys(fields) if name in known]
            done = 0
            for batch in file.iter_batches(ROWS, columns=present or known):
                done += len(batch)
                yield done / file.metadata.num_rows, batch.to_pylist()
        return
    with pyarrow.memory_map(str(path)) as source, ipc.open_stream(source) as stream:
        batches, done = list(stream), 0  # their content is not read yet
        total = sum(map(len, batches))
        for batch in batches:
            for start in range(0, len(batch), ROWS):
                part = batch.slice(start, ROWS)
                done += len(part)
                yield done / total, part.to_pylist()


def _below(values: Any, key: str, where: str) -> Any:
    """The value of a key, of which a dot leads into a nested object. Raises UserError."""
    if isinstance(values, dict) and key in values:
        return values[key]
    for name in key.split("."):
        if not isinstance(values, dict) or name not in values:
            known = f"it has {', '.join(map(str, values))[:200]}" if isinstance(values, dict) else "it is no object"
            raise UserError(f"{where}: no key '{name}'; {known}; columns= names the keys")
        values = values[name]
    return values


def _text(value: Any, key: str, where: str) -> str:
    """A value as a line. Raises UserError if it is not text."""
    if not isinstance(value, str):
        raise UserError(f"{where}: {key}: must be text, not {json.dumps(value, default=str)[:40]}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {key}: half of a surrogate pair, which is no text") from error
    return value.translate(BREAKS)
