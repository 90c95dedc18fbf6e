"""Reads lines of a file or a stream, plain or compressed: by the thousand, or as they arrive. The length of a line is
limited, and so is the memory for it.

A stream (a pipe, standard input, a device) can be read only once, so its lines cannot be counted beforehand.
"""

import gzip
import io
import lzma
import os
import select
import sys
import zlib
from bisect import bisect_left
from codecs import BOM_UTF8
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import zstandard

from s2s.config.streams import Source
from s2s.errors import UserError

STANDARD_INPUT = Path("standard input")  # its name in messages; compared by identity: a file may have this name, too
MAX_LINE_BYTES = 1_000_000
BLOCK_BYTES = 1 << 19
ZSTD_FEED_BYTES = 1 << 11  # compressed bytes read at a time; they decompress to at most 64 MB


class LineReader:
    """Reads lines as bytes, line feeds included.

    Only a line feed ends a line; carriage returns, form feeds and Unicode separators do not.

    Args:
        path: The file, compressed if it ends in .gz, .xz or .zst; or STANDARD_INPUT.
        max_line_bytes: Maximum length of a line without its line feed, in bytes; a longer one raises UserError.
        cut: Whether to cut longer lines to `max_line_bytes + 1` bytes instead.

    Attributes:
        line: Number of lines read so far.

    Raises:
        UserError: the path is a folder, or standard input is closed. While reading: a line is too long, or a
            compressed file is damaged.
        OSError: the file cannot be opened or read.
    """

    def __init__(self, path: str | Path, max_line_bytes: int = MAX_LINE_BYTES, cut: bool = False):
        self.path, self.line, self.max_line_bytes, self.cut = path, 0, max_line_bytes, cut
        if path is not STANDARD_INPUT and os.path.isdir(path):
            raise UserError(f"{path}: is a folder, not a file of lines")
        self._raw = Source("-" if path is STANDARD_INPUT else path)
        self._read = _decompressed(self._raw, Path(path).suffix)
        self._lines: list[bytes] = []  # lines in memory; the first `_next` of them are taken
        self._ends: list[int] = []  # the end of each, in bytes from the start of the first
        self._next = 0
        self._part: list[bytes] = []  # beginning of a line whose end has not been read
        self._part_bytes = 0
        self._ended = False

    def read(self, size: int) -> list[bytes]:
        """The next lines, together at least `size` bytes; fewer at the end of the file."""
        lines: list[bytes] = []
        total = 0
        while total < size and self._more():
            total += self._take(lines, sys.maxsize, size - total)
        return lines

    def take(self, count: int) -> list[bytes]:
        """The next `count` lines, fewer at the end."""
        lines: list[bytes] = []
        while len(lines) < count and self._more():
            self._take(lines, count - len(lines), sys.maxsize)
        return lines

    def arrived(self, count: int, size: int, wait: float) -> list[bytes]:
        """The lines that have arrived. It waits for the first one; the list is empty at the end of the file.

        Args:
            count: Maximum number of lines.
            size: No more lines are added after so many bytes.
            wait: Seconds to wait for each further line.
        """
        lines: list[bytes] = []
        total = 0
        while len(lines) < count and total < size and (self._comes(wait) if lines else self._more()):
            total += self._take(lines, count - len(lines), size - total)
        return lines

    def count(self) -> int:
        """The number of lines of the file, which is read to its end."""
        while self._more():
            self._take([], sys.maxsize, sys.maxsize)
        return self.line

    def position(self) -> int | None:
        """Bytes read of the file on disk; None for a pipe."""
        return self._raw.tell() if self._raw.seekable() else None

    def close(self) -> None:
        self._raw.close()

    def _take(self, lines: list[bytes], count: int, size: int) -> int:
        """Move lines from memory to `lines`, up to `count` and until they have `size` bytes; returns their bytes."""
        start = self._ends[self._next - 1] if self._next else 0
        last = min(self._next + count, len(self._lines))
        last = min(last, bisect_left(self._ends, start + size, self._next) + 1)
        lines += self._lines[self._next : last]
        self.line += last - self._next
        self._next = last
        return self._ends[last - 1] - start

    def _more(self) -> bool:
        """Whether there is another line; reads on if necessary. False: the end of the file."""
        while self._next == len(self._lines) and not self._ended:
            self._fill()
        return self._next < len(self._lines)

    def _comes(self, wait: float) -> bool:
        """As `_more`, but also False if nothing arrives for `wait` seconds."""
        poll = select.poll()
        poll.register(self._raw, select.POLLIN)
        while self._next == len(self._lines) and not self._ended:
            if not poll.poll(wait * 1000):
                return False
            self._fill()
        return self._next < len(self._lines)

    def _fill(self) -> None:
        """Read the next block; called when all lines in memory are taken."""
        try:
            block = self._read(BLOCK_BYTES)
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, zstandard.ZstdError) as error:
            what = "truncated" if isinstance(error, EOFError) else "damaged"
            where = f"{self.path}:{self.line + 1}"
            raise UserError(f"{where}: the compressed file is {what} somewhere after this line ({error})") from error
        self._ended = not block
        end = block.rfind(b"\n") + 1
        text, rest = b"", block[end:]
        if end or self._ended:
            text = b"".join((*self._part, memoryview(block)[:end]))
            self._part, self._part_bytes = [], 0
        lines, limit = io.BytesIO(text).readlines(), self.max_line_bytes
        rest = rest[: limit + 1 - self._part_bytes]
        if rest:
            self._part.append(rest)
            self._part_bytes += len(rest)
        sizes = list(map(len, lines))
        if len(text) > limit and max(sizes) > limit:
            for place, line in enumerate(lines):
                if len(line) - line.endswith(b"\n") > limit:
                    self._complain(place)
                    lines[place] = line[: limit + 1] + b"\n" * line.endswith(b"\n")
                    sizes[place] = len(lines[place])
        if self._part_bytes > limit:
            self._complain(len(lines))
        self._lines, self._ends, self._next = lines, list(accumulate(sizes)), 0

    def _complain(self, place: int) -> None:
        """Raise UserError for line `place` of those in memory, which is too long; not if `cut`."""
        if not self.cut:
            raise UserError(f"{self.path}:{self.line + place + 1}: {too_long(self.max_line_bytes)}")


class _ZstdFile(io.RawIOBase):
    """The decompressed bytes of a zstd file with any number of frames.

    It raises EOFError for a truncated file, which zstandard's own reader takes for complete.
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


def _decompressed(raw: BinaryIO, ending: str) -> Callable[[int], bytes]:
    """A function read(n) of decompressed bytes: at most n, and at most what one read of the file gives."""
    if ending == ".gz":
        return gzip.GzipFile(fileobj=raw).read1
    if ending == ".xz":
        return lzma.LZMAFile(raw).read1
    return (_ZstdFile(raw) if ending == ".zst" else raw).read


def too_long(max_line_bytes: int) -> str:
    """The message for a line that is too long."""
    return f"the line is longer than max_line_bytes={max_line_bytes} allows"


def decode_lines(block: bytes, path: str, first_line: int) -> list[str]:
    """Decode complete lines of a file. Line endings (also CR LF) and a byte order mark at the start are removed.

    Args:
        block: The lines.
        path: The file, for messages.
        first_line: Number of the first line.

    Raises:
        UserError: invalid UTF-8; the message has file and line.
    """
    return decode_text(block, path, first_line).split("\n")


def decode_text(block: bytes, path: str, first_line: int, numbers: Sequence[int] = ()) -> str:
    """As `decode_lines`, with line feeds between the lines; numbers: those of the lines, if they are not
    consecutive."""
    if first_line == 1:
        block = block.removeprefix(BOM_UTF8)
    try:
        text = block.decode()
    except UnicodeDecodeError as error:
        place = block.count(b"\n", 0, error.start)
        line = numbers[place] if numbers else first_line + place
        column = error.start - block.rfind(b"\n", 0, error.start)
        what = f"invalid UTF-8: byte 0x{block[error.start]:02x} at byte {column} of the line"
        raise UserError(f"{path}:{line}: {what}; convert the file to UTF-8") from error
    text = text.removesuffix("\n")
    return text.replace("\r\n", "\n").removesuffix("\r") if "\r" in text else text
