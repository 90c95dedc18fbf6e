"""Raw parallel text, read as a stream: aligned files, or one file of tab-separated columns; plain or compressed.

A file may be a named pipe, and tab-separated columns may come from standard input. These can be read only once.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from s2s.config.streams import is_stream
from s2s.data.lines import MAX_LINE_BYTES, STANDARD_INPUT, LineReader, decode_text
from s2s.errors import UserError

SIDES = ("source", "target")
ENDINGS = ("", ".gz", ".xz", ".zst")
# What columns are mostly called; in lower case.
HEADERS = frozenset(
    ["source", "target", "src", "tgt", "trg", "input", "output", "text", "sentence", "translation", "reference",
     "hypothesis", "word", "pronunciation", "question", "answer", "summary"]
)  # fmt: skip
CHUNK_BYTES = 1 << 18  # bytes of one side: a few thousand lines, so that a call of a worker is cheap per line


@dataclass(frozen=True)
class Chunk:
    """Some consecutive examples, as undecoded bytes.

    Attributes:
        paths: The file of each column, or a single TSV file.
        first_line: Number of the first line.
        parts: The bytes from each file.
        read: Bytes read from the first file since the last chunk: bytes on disk, or of a pipe bytes of text.
        names: Names of the columns.
        numbers: Number of each line; empty: they are consecutive.
        keep: Whether each line is kept, bool [lines], by a command of the user; None: all are.
    """

    paths: tuple[str, ...]
    first_line: int
    parts: tuple[bytes, ...]
    read: int
    names: tuple[str, ...] = SIDES
    numbers: tuple[int, ...] = ()
    keep: np.ndarray | None = None

    @property
    def count(self) -> int:
        """The number of lines."""
        part = self.parts[0]
        return part.count(b"\n") + (not part.endswith(b"\n"))

    def lines(self) -> list[list[str]]:
        """The lines of each column. Raises as `texts`."""
        return [text.split("\n") for text in self.texts()]

    def texts(self) -> list[str]:
        """The lines of each column, with line feeds between them.

        Raises:
            UserError: invalid UTF-8, or a row has another number of columns; the message starts with file and line.
        """
        texts = [decode_text(part, path, self.first_line, self.numbers)
                 for part, path in zip(self.parts, self.paths, strict=True)]  # fmt: skip
        if len(texts) == len(self.names) and not (len(texts) == 1 and is_tsv(self.paths[0])):
            return texts
        rows, count = [row.split("\t") for row in texts[0].split("\n")], len(self.names)
        for place, row in enumerate(rows):
            if len(row) != count:
                before = ("source language", "target language") if self.numbers else ()
                number = count + len(before)
                words = {1: "one column", 2: "two columns", 3: "three columns", 4: "four columns"}.get(
                    number, f"{number} columns"
                )
                raise UserError(f"{self.where(0, place)}: a row must have {words}, "
                                f"{' TAB '.join((*before, *self.names))}; it has {len(row) + len(before)}")  # fmt: skip
        return ["\n".join(column) for column in zip(*rows, strict=True)]

    def where(self, column: int, line: int) -> str:
        """FILE:NUMBER of a line of this chunk; `line` counts from 0."""
        number = self.numbers[line] if self.numbers else self.first_line + line
        return f"{self.paths[column if len(self.paths) > 1 else 0]}:{number}"


@dataclass(frozen=True)
class Corpus:
    """A parallel corpus: a file for each column, or one TSV file.

    Attributes:
        name: Its name in the config.
        paths: The file of each column, or a single TSV file.
        names: Names of the columns.
        max_line_bytes: Maximum length of a line, in bytes.
    """

    name: str
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    max_line_bytes: int = MAX_LINE_BYTES

    @classmethod
    def find(cls, name: str, endings: Sequence[str], max_line_bytes: int = MAX_LINE_BYTES,
             names: Sequence[str] = SIDES) -> "Corpus":  # fmt: skip
        """Find the files of a corpus.

        Args:
            name: A prefix (for `PREFIX.de` and `PREFIX.en`), a TSV file, a pipe of TSV such as bash's `<(...)`, or `-`
                for TSV on standard input. Files may be compressed.
            endings: The ending of the file of each column; for text, its language.
            max_line_bytes: Maximum length of a line, in bytes.
            names: Names of the columns, in the order of `endings` and of the columns of a TSV file.

        Raises:
            UserError: there is no such file.
        """
        names = tuple(names)
        if name == "-":
            if sys.stdin is None:
                raise UserError(f"-: {STANDARD_INPUT} is closed")
            return cls(name, (STANDARD_INPUT,), names, max_line_bytes)
        if is_table(name):
            if not _readable(Path(name)):
                raise UserError(f"{name}: no such file")
            return cls(name, (Path(name),), names, max_line_bytes)
        paths = [next(filter(_readable, (Path(f"{name}.{side}{e}") for e in ENDINGS)), None) for side in endings]
        missing = [f"{name}.{side}" for side, path in zip(endings, paths, strict=True) if path is None]
        if missing:
            raise UserError(f"{' and '.join(missing)}: no such file (nor with the ending .gz, .xz or .zst)"
                            + _beginning(name, endings))  # fmt: skip
        return cls(name, tuple(paths), names, max_line_bytes)

    @property
    def is_stream(self) -> bool:
        """Whether it comes from a pipe or from standard input, and so can be read only once."""
        return any(path is STANDARD_INPUT or is_stream(path) for path in self.paths)

    @property
    def size(self) -> int | None:
        """Bytes of the first file on disk, in the unit of `Chunk.read`; None for a stream."""
        return None if self.is_stream else self.paths[0].stat().st_size

    def chunks(self) -> Iterator[Chunk]:
        """All examples in order, a few thousand at a time; only one chunk is in memory.

        Raises:
            UserError: files have different numbers of lines, the corpus is empty, a compressed file is damaged, or a
                line is too long.
        """
        with ExitStack() as stack:
            opened = [stack.enter_context(closing(LineReader(path, self.max_line_bytes))) for path in self.paths]
            yield from self._chunks(*opened)

    def _chunks(self, leading: LineReader, *others: LineReader) -> Iterator[Chunk]:
        read, paths = 0, tuple(map(str, self.paths))
        while lines := leading.read(CHUNK_BYTES):
            first = leading.line - len(lines) + 1
            beside = [other.take(len(lines)) for other in others]
            for other, other_lines in zip(others, beside, strict=True):
                if len(other_lines) < len(lines):
                    raise self._unequal(leading, other, others.index(other))
            parts, position = tuple(map(b"".join, (lines, *beside))), leading.position()
            yield Chunk(paths, first, parts, len(parts[0]) if position is None else position - read, self.names)
            read = position
        for place, other in enumerate(others):
            if other.take(1):
                raise self._unequal(leading, other, place)
        if leading.line == 0:
            raise UserError(f"{self.paths[0]}:1: the corpus is empty; it must have at least one line")

    def _unequal(self, leading: LineReader, other: LineReader, place: int) -> UserError:
        counts, paths = (leading.count(), other.count()), (self.paths[0], self.paths[1 + place])
        shorter, least = (paths[0], counts[0]) if counts[0] < counts[1] else (paths[1], counts[1])
        return UserError(
            f"{shorter}:{least}: the file ends here, but all files must have the same number of lines: "
            f"{paths[0]} has {counts[0]}, {paths[1]} has {counts[1]}"
        )


def is_table(name: str) -> bool:
    """Whether a corpus of this name is a TSV file or a stream of TSV."""
    return name == "-" or is_tsv(name) or is_stream(name)


def is_tsv(name: str) -> bool:
    """Whether a file of this name is a TSV file."""
    return name.endswith(tuple(f".tsv{ending}" for ending in ENDINGS))


def _beginning(name: str, endings: Sequence[str]) -> str:
    """What to give in place of the name of a single file; nothing if it is none."""
    for ending in endings:
        for compressed in ENDINGS:
            if name.endswith(f".{ending}{compressed}"):
                return (
                    f"; give what the names of the files have in common, {name.removesuffix(f'.{ending}{compressed}')}"
                )
    files = " and ".join(f"PREFIX.{ending}" for ending in endings)
    return f"; {name} is a single file, and PREFIX stands for {files}" if _readable(Path(name)) else ""


def refuse_table(key: str, path: str | None, tabs: bool = False) -> None:
    """Raise UserError for a table where a file of texts is read, whose every line would be one text.

    Args:
        key: The option that names the file.
        path: The file; None: there is none.
        tabs: Whether lines may have tabs, so that TSV is no mistake.
    """
    if path is None:
        return
    store = f"; or make a store of it, s2s-preprocess test={path}, and give store= and split=test"
    for kind, take in (("json", "jq -r KEY"), ("jsonl", "jq -r .KEY"), ("parquet", "")):
        if path.endswith(tuple(f".{kind}{ending}" for ending in ENDINGS)):
            way = (
                f"write a column of it to such a file: {take} {path} > FILE" if take else "write a column of it to one"
            )
            raise UserError(f"{key}={path}: is a table, and {key}= reads a file with one text per line; {way}{store}")
    if is_tsv(path) and not tabs and _readable(Path(path)) and not is_stream(path):
        with closing(LineReader(Path(path), MAX_LINE_BYTES)) as reader:
            columns = b"".join(reader.take(1)).count(b"\t") + 1
        if columns > 1:
            raise UserError(f"{key}={path}: has {columns} columns, and {key}= reads a file with one text per line; "
                            f"write a column of it to such a file: cut -f1 {path} > FILE{store}")  # fmt: skip


def warn_of_header(path: Path, columns: Sequence[int] | None, endings: Sequence[str]) -> None:
    """Warn if the first line of a TSV file, which is read as an example, consists of names of columns.

    Args:
        path: The file.
        columns: Places of the columns that are read, from 0; None: all.
        endings: What the columns are called besides the usual names.
    """
    if is_stream(path) or path is STANDARD_INPUT:
        return
    with closing(LineReader(path, MAX_LINE_BYTES)) as reader:
        cells = b"".join(reader.take(1)).decode(errors="replace").strip("\r\n\ufeff").split("\t")
    known = HEADERS | {ending.casefold() for ending in endings}
    read = [cells[place] for place in (range(len(cells)) if columns is None else columns) if place < len(cells)]
    if len(set(read)) > 1 and all(cell.strip().casefold() in known for cell in read):
        names = ",".join(read)
        print(f"warning: {path}:1: the line {' TAB '.join(read)!r} looks like a header, and is read as an example; "
              f"columns=[{names}] reads the columns by their names", file=sys.stderr)  # fmt: skip


def _readable(path: Path) -> bool:
    return path.exists() and not os.path.isdir(path)
