"""Raw parallel text as a stream: two files of aligned lines, or one of tab-separated columns; plain or compressed.

A file may be a named pipe, and tab-separated columns may come from standard input; these can be read once.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from s2s.config.streams import is_stream
from s2s.data.lines import MAX_LINE_BYTES, STANDARD_INPUT, LineReader, decode_text
from s2s.errors import UserError

ENDINGS = ("", ".gz", ".xz", ".zst")
CHUNK_BYTES = 1 << 18  # of one side: some thousand lines, enough to make a worker's call cheap


@dataclass(frozen=True)
class Chunk:
    """Some consecutive pairs as they lie in the files, not yet decoded.

    `target` is None for a TSV file, whose rows are in `source`. `read` is what was read of the source file since the
    last chunk, in bytes as they are on disk; of a pipe, in bytes of text.
    """

    source_path: str
    target_path: str | None
    first_line: int
    source: bytes
    target: bytes | None
    read: int

    def lines(self) -> tuple[list[str], list[str]]:
        """Source lines and target lines. Raises what `texts` raises."""
        source, target = self.texts()
        return source.split("\n"), target.split("\n")

    def texts(self) -> tuple[str, str]:
        """The lines of the source and those of the target, with line feeds between them.

        Raises:
            UserError: invalid UTF-8 or a row without two columns; the message starts with file and line.
        """
        source = decode_text(self.source, self.source_path, self.first_line)
        if self.target is not None:
            return source, decode_text(self.target, self.target_path, self.first_line)
        rows = [row.split("\t") for row in source.split("\n")]
        for number, row in enumerate(rows, self.first_line):
            if len(row) != 2:
                raise UserError(
                    f"{self.source_path}:{number}: a row needs two columns, source TAB target; it has {len(row)}"
                )
        return "\n".join(row[0] for row in rows), "\n".join(row[1] for row in rows)


@dataclass(frozen=True)
class Corpus:
    """A parallel corpus; `target` is None for a TSV file. `name` is what the user called it."""

    name: str
    source: Path
    target: Path | None
    max_line_bytes: int = MAX_LINE_BYTES

    @classmethod
    def find(cls, name: str, source: str, target: str, max_line_bytes: int = MAX_LINE_BYTES) -> "Corpus":
        """The corpus that a user means by a prefix (`PREFIX.de` and `PREFIX.en`), a TSV file, or `-`.

        Args:
            name: A prefix or a TSV file, each file perhaps compressed; or the name of a pipe, such as bash's `<(...)`,
                or `-` for standard input, which are TSV.
            source: Ending of the source side, its language.
            target: Ending of the target side.
            max_line_bytes: A longer line is an error.

        Raises:
            UserError: a side that is not there.
        """
        if name == "-":
            if sys.stdin is None:
                raise UserError(f"-: {STANDARD_INPUT} is closed")
            return cls(name, STANDARD_INPUT, None, max_line_bytes)
        if name.endswith(tuple(f".tsv{ending}" for ending in ENDINGS)) or is_stream(name):
            if not _readable(Path(name)):
                raise UserError(f"{name}: no such file")
            return cls(name, Path(name), None, max_line_bytes)
        sides = [
            next(filter(_readable, (Path(f"{name}.{side}{e}") for e in ENDINGS)), None) for side in (source, target)
        ]
        missing = [f"{name}.{side}" for side, path in zip((source, target), sides, strict=True) if path is None]
        if missing:
            raise UserError(f"{' and '.join(missing)}: no such file (nor with the ending .gz, .xz or .zst)")
        return cls(name, *sides, max_line_bytes)

    @property
    def is_stream(self) -> bool:
        """Whether it comes through a pipe or from standard input, and so can be read once."""
        return any(path is STANDARD_INPUT or is_stream(path) for path in (self.source, self.target) if path)

    @property
    def size(self) -> int | None:
        """Bytes of the source file (or the TSV file) on disk, the measure of `Chunk.read`; None of a stream."""
        return None if self.is_stream else self.source.stat().st_size

    def chunks(self) -> Iterator[Chunk]:
        """All pairs in order, a few thousand at a time; holds one chunk in memory.

        Raises:
            UserError: sides of different line counts, an empty corpus, a damaged compressed file, a line that is too
                long.
        """
        with closing(LineReader(self.source, self.max_line_bytes)) as source:
            if self.target is None:
                yield from self._chunks(source, None)
            else:
                with closing(LineReader(self.target, self.max_line_bytes)) as target:
                    yield from self._chunks(source, target)

    def _chunks(self, source: LineReader, target: LineReader | None) -> Iterator[Chunk]:
        read = 0
        while lines := source.read(CHUNK_BYTES):
            first = source.line - len(lines) + 1
            others = None if target is None else target.take(len(lines))
            if others is not None and len(others) < len(lines):
                raise self._unequal(source, target)
            text, position = b"".join(lines), source.position()
            yield Chunk(
                str(self.source),
                None if target is None else str(self.target),
                first,
                text,
                None if others is None else b"".join(others),
                len(text) if position is None else position - read,
            )
            read = position
        if target is not None and target.take(1):
            raise self._unequal(source, target)
        if source.line == 0:
            raise UserError(f"{self.source}:1: empty corpus; at least one line is needed")

    def _unequal(self, source: LineReader, target: LineReader) -> UserError:
        counts = source.count(), target.count()
        shorter, least = (self.source, counts[0]) if counts[0] < counts[1] else (self.target, counts[1])
        return UserError(
            f"{shorter}:{least}: the file ends here, but the sides must have equally many lines: "
            f"{self.source} has {counts[0]}, {self.target} has {counts[1]}"
        )


def _readable(path: Path) -> bool:
    return path.exists() and not os.path.isdir(path)
