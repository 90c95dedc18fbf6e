"""Lines of a file or a stream, plain or compressed: by the thousand, or as they come. None is longer than a bound, and
no more of one is ever held.

A stream (a pipe, standard input, a device) is read once: nothing is counted in it beforehand.
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
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import zstandard

from s2s.config.streams import Source
from s2s.errors import UserError

STANDARD_INPUT = Path("standard input")  # what messages call it; known by identity, for a file may have this name too
MAX_LINE_BYTES = 1_000_000
BLOCK_BYTES = 1 << 19
ZSTD_FEED_BYTES = 1 << 11  # compressed bytes at a time: they become 64 MB at most


class LineReader:
    """Lines as bytes, line feeds included; `line` is the number of lines read.

    Only a line feed ends a line: no carriage return, no form feed, no Unicode separator.

    Args:
        path: The file; one that ends in .gz, .xz or .zst is compressed. STANDARD_INPUT: what it says.
        max_line_bytes: A longer line, line feed not counted, is a UserError.
        cut: It is no error; `max_line_bytes + 1` bytes are left of it.

    Raises:
        UserError: a folder, or standard input is closed; later also a damaged compressed file.
        OSError: the file cannot be opened or read.
    """

    def __init__(self, path: str | Path, max_line_bytes: int = MAX_LINE_BYTES, cut: bool = False):
        self.path, self.line, self.max_line_bytes, self.cut = path, 0, max_line_bytes, cut
        if path is not STANDARD_INPUT and os.path.isdir(path):
            raise UserError(f"{path}: is a folder; a file of lines is needed")
        self._raw = Source("-" if path is STANDARD_INPUT else path)
        self._read = _decompressed(self._raw, Path(path).suffix)
        self._lines: list[bytes] = []  # that wait, of which the first `_next` are taken
        self._ends: list[int] = []  # of each, in bytes from the first one's start
        self._next = 0
        self._part: list[bytes] = []  # of a line whose end has not come
        self._part_bytes = 0
        self._ended = False

    def read(self, size: int) -> list[bytes]:
        """Lines of at least `size` bytes together, fewer at the end."""
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
        """What has come: one line at least, but at the end, and then up to `count` lines, and up to `size` bytes with
        one more line, for as long as no `wait` seconds pass in which none comes."""
        lines: list[bytes] = []
        total = 0
        while len(lines) < count and total < size and (self._comes(wait) if lines else self._more()):
            total += self._take(lines, count - len(lines), size - total)
        return lines

    def count(self) -> int:
        """Lines of the whole file, read to its end."""
        while self._more():
            self._take([], sys.maxsize, sys.maxsize)
        return self.line

    def position(self) -> int | None:
        """Bytes read of the file on disk; None of a pipe."""
        return self._raw.tell() if self._raw.seekable() else None

    def close(self) -> None:
        self._raw.close()

    def _take(self, lines: list[bytes], count: int, size: int) -> int:
        """Add up to `count` lines that wait, and of them as many as make `size` bytes; returns their bytes."""
        start = self._ends[self._next - 1] if self._next else 0
        last = min(self._next + count, len(self._lines))
        last = min(last, bisect_left(self._ends, start + size, self._next) + 1)
        lines += self._lines[self._next : last]
        self.line += last - self._next
        self._next = last
        return self._ends[last - 1] - start

    def _more(self) -> bool:
        """Whether a line waits, now or after reading on; False: the end."""
        while self._next == len(self._lines) and not self._ended:
            self._fill()
        return self._next < len(self._lines)

    def _comes(self, wait: float) -> bool:
        """As `_more`, but False too when for so many seconds nothing comes."""
        poll = select.poll()
        poll.register(self._raw, select.POLLIN)
        while self._next == len(self._lines) and not self._ended:
            if not poll.poll(wait * 1000):
                return False
            self._fill()
        return self._next < len(self._lines)

    def _fill(self) -> None:
        """Read what comes next, when no line waits."""
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
        lines, most = io.BytesIO(text).readlines(), self.max_line_bytes
        rest = rest[: most + 1 - self._part_bytes]
        if rest:
            self._part.append(rest)
            self._part_bytes += len(rest)
        sizes = list(map(len, lines))
        if len(text) > most and max(sizes) > most:
            for place, line in enumerate(lines):
                if len(line) - line.endswith(b"\n") > most:
                    self._complain(place)
                    lines[place] = line[: most + 1] + b"\n" * line.endswith(b"\n")
                    sizes[place] = len(lines[place])
        if self._part_bytes > most:
            self._complain(len(lines))
        self._lines, self._ends, self._next = lines, list(accumulate(sizes)), 0

    def _complain(self, place: int) -> None:
        """The line after so many that wait is too long."""
        if not self.cut:
            raise UserError(f"{self.path}:{self.line + place + 1}: {too_long(self.max_line_bytes)}")


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


def _decompressed(raw: BinaryIO, ending: str) -> Callable[[int], bytes]:
    """A function that reads up to so many of the decompressed bytes, at most what one read of the file gives."""
    if ending == ".gz":
        return gzip.GzipFile(fileobj=raw).read1
    if ending == ".xz":
        return lzma.LZMAFile(raw).read1
    return (_ZstdFile(raw) if ending == ".zst" else raw).read


def too_long(max_line_bytes: int) -> str:
    """What is said of a line that is longer."""
    return f"the line is longer than max_line_bytes={max_line_bytes} allows"


def decode_lines(block: bytes, path: str, first_line: int) -> list[str]:
    """Whole lines of a file as text, without line feeds, without one carriage return before each, and without a byte
    order mark at the file's start.

    Raises:
        UserError: invalid UTF-8, with file and line.
    """
    return decode_text(block, path, first_line).split("\n")


def decode_text(block: bytes, path: str, first_line: int) -> str:
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
