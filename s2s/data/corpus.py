"""Raw parallel text as a stream: files of aligned lines, or one of tab-separated columns; plain or compressed.

A file may be a named pipe, and tab-separated columns may come from standard input; these can be read once.
"""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from s2s.config.streams import is_stream
from s2s.data.lines import MAX_LINE_BYTES, STANDARD_INPUT, LineReader, decode_text
from s2s.errors import UserError

SIDES = ("source", "target")
ENDINGS = ("", ".gz", ".xz", ".zst")
CHUNK_BYTES = 1 << 18  # of one side: some thousand lines, enough to make a worker's call cheap


@dataclass(frozen=True)
class Chunk:
    """Some consecutive examples as they lie in the files, not yet decoded.

    Attributes:
        paths: Of the file of each column, or of the only one, a TSV file.
        first_line: Number of the first line.
        parts: Of each file.
        read: What was read of the first file since the last chunk, in bytes as they are on disk; of a pipe, in bytes of
            text.
        names: Of the columns.
    """

    paths: tuple[str, ...]
    first_line: int
    parts: tuple[bytes, ...]
    read: int
    names: tuple[str, ...] = SIDES

    def lines(self) -> list[list[str]]:
        """The lines of each column. Raises what `texts` raises."""
        return [text.split("\n") for text in self.texts()]

    def texts(self) -> list[str]:
        """The lines of each column, with line feeds between them.

        Raises:
            UserError: invalid UTF-8 or a row without as many columns; the message starts with file and line.
        """
        texts = [decode_text(part, path, self.first_line) for part, path in zip(self.parts, self.paths, strict=True)]
        if len(texts) == len(self.names):
            return texts
        rows, count = [row.split("\t") for row in texts[0].split("\n")], len(self.names)
        for number, row in enumerate(rows, self.first_line):
            if len(row) != count:
                words = {2: "two", 3: "three", 4: "four"}.get(count, str(count))
                raise UserError(f"{self.paths[0]}:{number}: a row needs {words} columns, {' TAB '.join(self.names)}; "
                                f"it has {len(row)}")  # fmt: skip
        return ["\n".join(column) for column in zip(*rows, strict=True)]

    def where(self, column: int, line: int) -> str:
        """File and number of a line of this chunk, which counts from 0."""
        return f"{self.paths[column if len(self.paths) > 1 else 0]}:{self.first_line + line}"


@dataclass(frozen=True)
class Corpus:
    """A parallel corpus: a file of each column, or one TSV file. `name` is what the user called it."""

    name: str
    paths: tuple[Path, ...]
    names: tuple[str, ...]
    max_line_bytes: int = MAX_LINE_BYTES

    @classmethod
    def find(cls, name: str, endings: Sequence[str], max_line_bytes: int = MAX_LINE_BYTES,
             names: Sequence[str] = SIDES) -> "Corpus":  # fmt: skip
        """The corpus that a user means by a prefix (`PREFIX.de` and `PREFIX.en`), a TSV file, or `-`.

        Args:
            name: A prefix or a TSV file, each file perhaps compressed; or the name of a pipe, such as bash's `<(...)`,
                or `-` for standard input, which are TSV.
            endings: Of the file of each column; of text its language.
            max_line_bytes: A longer line is an error.
            names: Of the columns, in the same order, which is that of a TSV file too.

        Raises:
            UserError: a file that is not there.
        """
        names = tuple(names)
        if name == "-":
            if sys.stdin is None:
                raise UserError(f"-: {STANDARD_INPUT} is closed")
            return cls(name, (STANDARD_INPUT,), names, max_line_bytes)
        if name.endswith(tuple(f".tsv{ending}" for ending in ENDINGS)) or is_stream(name):
            if not _readable(Path(name)):
                raise UserError(f"{name}: no such file")
            return cls(name, (Path(name),), names, max_line_bytes)
        found = [next(filter(_readable, (Path(f"{name}.{side}{e}") for e in ENDINGS)), None) for side in endings]
        missing = [f"{name}.{side}" for side, path in zip(endings, found, strict=True) if path is None]
        if missing:
            raise UserError(f"{' and '.join(missing)}: no such file (nor with the ending .gz, .xz or .zst)")
        return cls(name, tuple(found), names, max_line_bytes)

    @property
    def is_stream(self) -> bool:
        """Whether it comes through a pipe or from standard input, and so can be read once."""
        return any(path is STANDARD_INPUT or is_stream(path) for path in self.paths)

    @property
    def size(self) -> int | None:
        """Bytes of the first file on disk, the measure of `Chunk.read`; None of a stream."""
        return None if self.is_stream else self.paths[0].stat().st_size

    def chunks(self) -> Iterator[Chunk]:
        """All examples in order, a few thousand at a time; holds one chunk in memory.

        Raises:
            UserError: files of different line counts, an empty corpus, a damaged compressed file, a line that is too
                long.
        """
        with ExitStack() as stack:
            opened = [stack.enter_context(closing(LineReader(path, self.max_line_bytes))) for path in self.paths]
            yield from self._chunks(*opened)

    def _chunks(self, leading: LineReader, *others: LineReader) -> Iterator[Chunk]:
        read, paths = 0, tuple(map(str, self.paths))
        while lines := leading.read(CHUNK_BYTES):
            first = leading.line - len(lines) + 1
            beside = [other.take(len(lines)) for other in others]
            for other, its in zip(others, beside, strict=True):
                if len(its) < len(lines):
                    raise self._unequal(leading, other, others.index(other))
            parts, position = tuple(b"".join(some) for some in (lines, *beside)), leading.position()
            yield Chunk(paths, first, parts, len(parts[0]) if position is None else position - read, self.names)
            read = position
        for place, other in enumerate(others):
            if other.take(1):
                raise self._unequal(leading, other, place)
        if leading.line == 0:
            raise UserError(f"{self.paths[0]}:1: empty corpus; at least one line is needed")

    def _unequal(self, leading: LineReader, other: LineReader, place: int) -> UserError:
        counts, paths = (leading.count(), other.count()), (self.paths[0], self.paths[1 + place])
        shorter, least = (paths[0], counts[0]) if counts[0] < counts[1] else (paths[1], counts[1])
        return UserError(
            f"{shorter}:{least}: the file ends here, but the sides must have equally many lines: "
            f"{paths[0]} has {counts[0]}, {paths[1]} has {counts[1]}"
        )


def _readable(path: Path) -> bool:
    return path.exists() and not os.path.isdir(path)
