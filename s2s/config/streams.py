"""Output of results and progress, and streams that replace files. Results must arrive: on standard output, or in a
file that appears when it is complete. Progress, on standard error, may be lost. Both are UTF-8 in any locale.

The standard streams of a process may be closed (`>&-`), full (/dev/full), or a pipe whose reader goes away.
"""

import io
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from s2s.errors import ReaderGone, UserError
from s2s.files import naming, whole_file

INPUT, OUTPUT, ERROR = 0, 1, 2
NAMES = {"/dev/stdin": INPUT, "/dev/stdout": OUTPUT, "/dev/stderr": ERROR}
STANDARD_INPUT, STANDARD_OUTPUT = "standard input", "standard output"  # what messages call them


class Source(io.FileIO):
    """A file or a stream, read in blocks as they arrive.

    Args:
        path: Its path; `-` is standard input.

    Raises:
        UserError: standard input is closed.
        OSError: it cannot be opened; named.
    """

    def __init__(self, path: str | Path):
        number = INPUT if path == "-" else descriptor(path)
        if number == INPUT and sys.stdin is None:
            raise UserError(f"{STANDARD_INPUT} is closed")
        with naming(STANDARD_INPUT if path == "-" else path):
            super().__init__(path if number is None else os.dup(number))

    def read(self, size: int = -1) -> bytes:
        while (block := super().read(size)) is None:  # a non-blocking stream without data
            select.select([self], [], [])
        return block


class Output(io.FileIO):
    """A file or stream for results. Raises ReaderGone, or OSError with a name that users know.

    Args:
        file: Its path or number.
        called: Its name in messages.
        closefd: Whether closing it closes its number.
    """

    def __init__(self, file: str | Path | int, called: str, closefd: bool = True):
        self.called = called
        with self._named():
            super().__init__(file if (number := descriptor(file)) is None else os.dup(number), "wb", closefd)

    def write(self, data) -> int:
        with self._named():
            while (written := super().write(data)) is None:  # a non-blocking stream that is full
                select.select([], [self], [])
        return written

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError as error:
            raise ReaderGone from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.called) from error


class Progress(io.FileIO):
    """Standard error. Text that cannot be written is lost without an error."""

    def write(self, data) -> int:
        written = None
        with suppress(OSError):
            written = super().write(data)
        return written or len(data)


def prepare() -> None:
    """Prepare the standard streams of this process for a command. Streams that a caller has replaced are left alone.

    A closed stream's number leads to /dev/null afterwards, so that no file that is opened gets it, in this process or
    in one that it starts. `sys.stdin` and `sys.stdout` stay None then.
    """
    for number in (INPUT, OUTPUT, ERROR):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number, which is this one
    if sys.stdout is not None and sys.stdout is sys.__stdout__:
        sys.stdout = _text(Output(OUTPUT, STANDARD_OUTPUT, closefd=False), sys.stdout.isatty())
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(Progress(ERROR, "wb", closefd=False), True)


def _text(raw: io.FileIO, by_line: bool) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=by_line)


def results() -> TextIO:
    """Standard output, for results without another destination. Raises UserError: it is closed."""
    if sys.stdout is None:
        raise UserError(f"{STANDARD_OUTPUT} is closed, and the results would be lost")
    return sys.stdout


def settle() -> None:
    """Write the buffered rest of the results; if that fails, it is lost without a message."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ReaderGone):
        os.dup2(os.open(os.devnull, os.O_WRONLY), OUTPUT)  # Python flushes once more at exit


def descriptor(path: str | Path | int) -> int | None:
    """The number of the open stream that a path stands for (/dev/stdin, bash's /dev/fd/63), or None."""
    match = re.fullmatch(r"/(?:dev|proc/self)/fd/(\d+)", str(path))
    return int(match[1]) if match else NAMES.get(str(path))


def is_stream(path: str | Path) -> bool:
    """Whether a path leads to an open stream, a pipe, a terminal or a device, and not to a file. It is read only once,
    and written to directly."""
    return descriptor(path) is not None or (
        os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
    )


def is_there(path: str | Path) -> bool:
    """Whether a path can be read and is not a folder; `-` can."""
    return path == "-" or (os.path.exists(path) and not os.path.isdir(path))


def content(path: str | Path) -> bytes:
    """The content of a file or a stream; `-` is standard input. Raises the errors of Source."""
    with Source(path) as file:
        return b"".join(iter(lambda: file.read(1 << 20), b""))


def is_standard_output(path: str) -> bool:
    """Whether a path to write to leads to standard output."""
    return path == "-" or descriptor(path) == OUTPUT


def read_twice(paths: list[str]) -> str | None:
    """The first of several input paths that leads to the same stream as an earlier one; `-` is standard input."""
    seen = set()
    for path in paths:
        if path != os.devnull and (path == "-" or is_stream(path)):
            with suppress(OSError):
                status = os.fstat(INPUT) if path == "-" else os.stat(path)
                if (status.st_dev, status.st_ino) in seen:
                    return path
                seen.add((status.st_dev, status.st_ino))
    return None


def overwritten(output: str, paths: list[str]) -> bool:
    """Whether an output file is also an input."""
    return os.path.isfile(output) and any(os.path.exists(path) and os.path.samefile(output, path) for path in paths)


@contextmanager
def opened(path: str | None, key: str = "output") -> Iterator[BinaryIO]:
    """A file that appears, or replaces the one that is there, only when it is complete.

    Args:
        path: The file; a stream is written to as it is. None and `-`: standard output.
        key: The option that names it, for messages.

    Raises:
        UserError: as `whole_file`, or standard output is closed.
        OSError: it cannot be written; then nothing is left behind.
        ReaderGone: it is a pipe that has no reader any more.
    """
    if path is None or is_standard_output(path):
        file = results()
        file.flush()
        yield file.buffer
        file.buffer.flush()
        return
    if is_stream(path):
        with io.BufferedWriter(Output(path, path)) as file:
            yield file
        return
    with whole_file(path, key) as file:
        yield file
