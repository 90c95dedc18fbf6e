"""Raw parallel text as a stream: two files of aligned lines, or one of tab-separated columns; plain or compressed.

A file may be a named pipe, and tab-separated columns may come from standard input; these can be read once.
"""

import gzip
import io
import lzma
import os
import sys
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import zstandard

from s2s.errors import UserError

ENDINGS = ("", ".gz", ".xz", ".zst")
STANDARD_INPUT = Path("standard input")  # what messages call it; known by identity, for a file may have this name too
CHUNK_BYTES = 1 << 18  # of one side: some thousand lines, enough to make a worker's call cheap
BLOCK_BYTES = 1 << 20
ZSTD_FEED_BYTES = 1 << 13  # compressed bytes at a time, so that extreme compression cannot fill the memory


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
        source = _decoded(self.source, self.source_path, self.first_line)
        if self.target is not None:
            return source, _decoded(self.target, self.target_path, self.first_line)
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

    @classmethod
    def find(cls, name: str, source: str, target: str) -> "Corpus":
        """The corpus that a user means by a prefix (`PREFIX.de` and `PREFIX.en`), a TSV file, or `-`.

        Args:
            name: A prefix or a TSV file, each file perhaps compressed; or the name of a pipe, such as bash's `<(...)`,
                or `-` for standard input, which are TSV.
            source: Ending of the source side, its language.
            target: Ending of the target side.

        Raises:
            UserError: a side that is not there.
        """
        if name == "-":
            if sys.stdin is None:
                raise UserError(f"-: {STANDARD_INPUT} is closed")
            return cls(name, STANDARD_INPUT, None)
        if name.endswith(tuple(f".tsv{ending}" for ending in ENDINGS)) or _is_pipe(Path(name)):
            if not _readable(Path(name)):
                raise UserError(f"{name}: no such file")
            return cls(name, Path(name), None)
        sides = [
            next(filter(_readable, (Path(f"{name}.{side}{e}") for e in ENDINGS)), None) for side in (source, target)
        ]
        missing = [f"{name}.{side}" for side, path in zip((source, target), sides, strict=True) if path is None]
        if missing:
            raise UserError(f"{' and '.join(missing)}: no such file (nor with the ending .gz, .xz or .zst)")
        return cls(name, *sides)

    @property
    def is_stream(self) -> bool:
        """Whether it comes through a pipe or from standard input, and so can be read once."""
        return any(path is STANDARD_INPUT or _is_pipe(path) for path in (self.source, self.target) if path)

    @property
    def size(self) -> int | None:
        """Bytes of the source file (or the TSV file) on disk, the measure of `Chunk.read`; None of a stream."""
        return None if self.is_stream else self.source.stat().st_size

    def chunks(self) -> Iterator[Chunk]:
        """All pairs in order, a few thousand at a time; holds one chunk in memory.

        Raises:
            UserError: sides of different line counts, an empty corpus, a damaged compressed file.
        """
        with closing(LineReader(self.source)) as source:
            if self.target is None:
                yield from self._chunks(source, None)
            else:
                with closing(LineReader(self.target)) as target:
                    yield from self._chunks(source, target)

    def _chunks(self, source: "LineReader", target: "LineReader | None") -> Iterator[Chunk]:
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

    def _unequal(self, source: "LineReader", target: "LineReader") -> UserError:
        counts = source.count(), target.count()
        shorter, least = (self.source, counts[0]) if counts[0] < counts[1] else (self.target, counts[1])
        return UserError(
            f"{shorter}:{least}: the file ends here, but the sides must have equally many lines: "
            f"{self.source} has {counts[0]}, {self.target} has {counts[1]}"
        )


class LineReader:
    """Lines of a plain or compressed file as bytes, line feeds included; `line` is the number of lines read.

    Only a line feed ends a line: no carriage return, no form feed, no Unicode separator.
    """

    def __init__(self, path: Path):
        self.path, self.line = path, 0
        place = 0 if path is STANDARD_INPUT else path
        self._raw = open(place, "rb", buffering=0, closefd=place != 0)  # noqa: SIM115 (closed by `close`)
        self._lines = io.BufferedReader(_decompressed(self._raw, path.suffix), BLOCK_BYTES)

    def read(self, size: int) -> list[bytes]:
        """Lines of at least `size` bytes together, fewer at the end."""
        with self._complaints():
            lines = self._lines.readlines(size)
        self.line += len(lines)
        return lines

    def take(self, count: int) -> list[bytes]:
        """The next `count` lines, fewer at the end."""
        with self._complaints():
            lines = list(islice(self._lines, count))
        self.line += len(lines)
        return lines

    def count(self) -> int:
        """Lines of the whole file, read to its end."""
        with self._complaints():
            self.line += sum(1 for _ in self._lines)
        return self.line

    def position(self) -> int | None:
        """Bytes read of the file on disk; None of a pipe."""
        return self._raw.tell() if self._raw.seekable() else None

    def close(self) -> None:
        self._lines.close()
        self._raw.close()

    @contextmanager
    def _complaints(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError) as error:
            what = "truncated" if isinstance(error, EOFError) else "damaged"
            where = f"{self.path}:{self.line + 1}"
            raise UserError(f"{where}: the compressed file is {what} somewhere after this line ({error})") from error


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of a zstd file of any number of frames.

    zstandard's own reader takes a truncated file for a complete one; this one raises EOFError.
    """

    def __init__(self, raw: BinaryIO):
        self._raw, self._pending, self._input = raw, memoryview(b""), b""
        self._frame = None  # the decompressor of the frame that is being read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._pending:
            self._input = self._input or self._raw.read(ZSTD_FEED_BYTES)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("it ends inside a zstd frame")
                return 0
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._pending = memoryview(self._frame.decompress(self._input))
            self._input = b""
            if self._frame.eof:
                self._input, self._frame = self._frame.unused_data, None
        size = min(len(buffer), len(self._pending))
        buffer[:size], self._pending = self._pending[:size], self._pending[size:]
        return size


def decode_lines(block: bytes, path: str, first_line: int) -> list[str]:
    """Whole lines of a file as text, without line feeds, without one carriage return before each, and without a byte
    order mark at the file's start.

    Raises:
        UserError: invalid UTF-8, with file and line.
    """
    return _decoded(block, path, first_line).split("\n")


def _decoded(block: bytes, path: str, first_line: int) -> str:
    """As `decode_lines`, with line feeds between the lines."""
    if first_line == 1:
        block = block.removeprefix(BOM_UTF8)
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        line = first_line + block.count(b"\n", 0, error.start)
        column = error.start - block.rfind(b"\n", 0, error.start)
        what = f"invalid UTF-8: byte 0x{block[error.start]:02x} at byte {column} of the line"
        raise UserError(f"{path}:{line}: {what}; convert the file to UTF-8") from error
    text = text.removesuffix("\n")
    return text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text


def _decompressed(raw: BinaryIO, ending: str):
    """A file-like object of the decompressed bytes."""
    if ending == ".gz":
        return gzip.GzipFile(fileobj=raw)
    if ending == ".xz":
        return lzma.LZMAFile(raw)
    if ending == ".zst":
        return _ZstdFile(raw)
    return raw


def _readable(path: Path) -> bool:
    return path.exists() and not os.path.isdir(path)


def _is_pipe(path: Path) -> bool:
    """Whether a path leads to something that is read once: a named pipe, a process substitution, a terminal."""
    return _readable(path) and not path.is_file()
