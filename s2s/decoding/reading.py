"""Lines of a file or a stream, in windows, for decoding."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from s2s.data.lines import MAX_LINE_BYTES, STANDARD_INPUT, LineReader, decode_lines, too_long
from s2s.decoding.hypothesis import Skipped
from s2s.errors import UserError

LINES = 4096  # lines read at once where no results are waited for


@dataclass(frozen=True)
class Reading:
    """How an input is read.

    Attributes:
        size: Maximum number of sentences in a window.
        wait: A window ends after this many seconds without another line.
        max_line_bytes: Maximum length of a line, in bytes.
        skip_broken: Whether a line or recording that cannot be read is replaced by Skipped. Otherwise it is an error.
        size_bytes: A window of text also ends after this many bytes; None: 1024 for each sentence.
        checked: (first, step) of the recordings of a list that this process checks before the first window.
    """

    size: int
    wait: float = 0.0
    max_line_bytes: int = MAX_LINE_BYTES
    skip_broken: bool = False
    size_bytes: int | None = None
    checked: tuple[int, int] = (0, 1)


def named(path: str | None) -> str | Path:
    """The path, or STANDARD_INPUT for `-` and None."""
    return STANDARD_INPUT if path in (None, "-") else path


def line_windows(path: str | Path, reading: Reading) -> Iterator[list[str | Skipped]]:
    """Windows of lines of a file, plain or compressed, or of a stream.

    Raises:
        UserError: a line is too long or not UTF-8 (the message has its number); the path is a folder; a compressed
            file is damaged.
        OSError: no such file.
    """
    with closing(LineReader(path, reading.max_line_bytes, reading.skip_broken)) as reader:
        while lines := reader.arrived(reading.size, reading.size_bytes or reading.size << 10, reading.wait):
            first = reader.line - len(lines) + 1
            decodable = not reading.skip_broken or max(map(len, lines)) <= reading.max_line_bytes
            try:
                window = decode_lines(b"".join(lines), str(path), first) if decodable else None
            except UserError:
                if not reading.skip_broken:
                    raise
                window = None
            yield window or [_line(line, path, number, reading) for number, line in enumerate(lines, first)]


def _line(line: bytes, path: str | Path, number: int, reading: Reading) -> str | Skipped:
    try:
        if len(line.removesuffix(b"\n")) > reading.max_line_bytes:
            raise UserError(f"{path}:{number}: {too_long(reading.max_line_bytes)}")
        return decode_lines(line, str(path), number)[0]
    except UserError as error:
        return Skipped(str(error))


def count_lines(path: str | Path, reading: Reading) -> int:
    """The number of lines of a file, plain or compressed. Raises as `line_windows`, but does not check UTF-8."""
    with closing(LineReader(path, reading.max_line_bytes, reading.skip_broken)) as reader:
        return reader.count()
