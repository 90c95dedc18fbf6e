"""The log of a run: lines and a progress bar for users; metrics.jsonl and events of loggers for programs."""

import contextlib
import functools
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from s2s import registry
from s2s.config.documents import to_json

WAITING, PATIENCE = 1000, 10.0  # maximum number of lines queued for standard error; seconds to wait for them at the end
BEGINNINGS = (b'{"kind": "start"', b'{"kind": "resume"')  # beginnings of the first line of a session in metrics.jsonl
COLUMNS = 120  # width of lines that are not written to a terminal
BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}, {remaining} left"


def folded(text: str, columns: int) -> str:
    """Fold lines that are longer than `columns` between their fields, at ` | `; a longer field stays whole."""
    lines = []
    for line in text.split("\n"):
        first, *fields = line.split(" | ")
        lines.append(first)
        for field in fields:
            joined = f"{lines[-1]} | {field}"
            if len(joined) <= columns:
                lines[-1] = joined
            else:
                lines.append(f"  | {field}")
    return "\n".join(lines)


def _columns() -> int:
    """The width of standard error."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except (OSError, ValueError, AttributeError):  # not a terminal, or a stream without a file descriptor
        return COLUMNS


class RunLog:
    """Writes to standard error, RUN/train.log, RUN/metrics.jsonl and loggers; files are appended to.

    If something cannot be written, for example because the disk is full, it is lost with a single warning, and the run
    goes on. Each line of metrics.jsonl has the number of its `session`: 1 is the start of the run, and each resume
    begins another session.

    Args:
        run: The run's folder.
        total: Number of updates of the whole run, for the progress bar.
        done: Number of updates done before.
        loggers: Names of loggers.
    """

    def __init__(self, run: Path, total: int | None, done: int, loggers: list[str]):
        self.loggers = {name: registry.find("logger", name)(run, done) for name in loggers}
        self.run = run
        self.text, self.jsonl = Lines(run / "train.log"), Lines(run / "metrics.jsonl")
        self.session = 1 + sum(line.startswith(BEGINNINGS) for line in self.jsonl.before())
        self.failing: set[str] = set()
        self.console, self.bar = Console(), None
        if sys.stderr.isatty():
            self.bar = tqdm(total=total, initial=done, dynamic_ncols=True, file=self.console, bar_format=BAR)

    def line(self, text: str) -> None:
        """Write a line to standard error, where it is folded between its fields, and with date and time to
        train.log."""
        shown = folded(text, _columns())
        if self.bar is None:
            self.console.write(f"{shown}\n")
            self.console.flush()
        else:
            self.bar.write(shown, file=self.console)
        self.note(text)

    def note(self, text: str) -> None:
        """Write a line to train.log only."""
        self._try("train.log", lambda: self.text.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"))

    def advance(self, updates: int = 1, course: Callable[[], str] = str) -> None:
        """Advance the progress bar; `updates` is negative after a rollback. `course` returns what is shown beside it,
        such as the loss."""
        if self.bar is not None:
            self.bar.set_postfix_str(course(), refresh=False)
            self.bar.update(updates)

    def metrics(self, kind: str, update: int, values: dict) -> None:
        """Write an event to metrics.jsonl, and its numbers to the loggers.

        Args:
            kind: `train`, `valid` or another event such as `resume`.
            update: Number of the update.
            values: Its values; numbers that are not finite are written as null.
        """
        event = {"kind": kind, "update": update, "session": self.session, "time": round(time.time(), 1), **values}
        self._try("metrics.jsonl", lambda: self.jsonl.add(to_json(event)))
        scalars = {k: v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        for name, logger in self.loggers.items():
            if name not in self.failing:  # a logger that has failed does not recover
                self._try(name, functools.partial(logger.add, kind, update, scalars), Exception)
            if kind == "end" and hasattr(logger, "end"):
                self._try(name, functools.partial(logger.end, values["reason"]), Exception)

    def picture(self, file: str, draw: Callable[[Path], None], name: str, update: int) -> None:
        """Write a picture to RUN/file by calling `draw`, and give it to the loggers by its name."""
        self._try(str(Path(file).parent), lambda: draw(self.run / file), Exception)
        if (self.run / file).is_file():
            self.show("image", name, update, self.run / file)

    def show(self, method: str, name: str, update: int, content: Any) -> None:
        """Give a text or the path of a picture to the loggers that have this method, `text` or `image`."""
        for logger_name, logger in self.loggers.items():
            if hasattr(logger, method) and logger_name not in self.failing:
                call = functools.partial(getattr(logger, method), name, update, content)
                self._try(logger_name, call, Exception)

    def _try(self, name: str, write: Callable[[], Any], errors: type[Exception] = OSError) -> None:
        """Call `write()`. The first error of type `errors` is reported; later ones are ignored until it succeeds
        again."""
        try:
            write()
            self.failing.discard(name)
        except errors as error:
            if name not in self.failing:
                self.failing.add(name)
                why = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                self.line(f"warning: {name} of the run cannot be written: {why}; some of its content is lost")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        for name, logger in self.loggers.items():
            self._try(name, logger.close, Exception)
        self.text.close()
        self.jsonl.close()
        self.console.close()


class Console:
    """Standard error, written by a thread, so that a reader that hangs (such as a terminal) does not stop the run. Up
    to WAITING pieces are queued; further ones are lost."""

    def __init__(self):
        self._file, self._thread = sys.stderr, None
        with contextlib.suppress(OSError, AttributeError):  # a stream of the caller, without a file descriptor
            self._number = self._file.fileno()
            self._pieces: queue.Queue[bytes | None] = queue.Queue(WAITING)
            self._thread = threading.Thread(target=self._work, name="console", daemon=True)
            self._thread.start()

    def write(self, text: str) -> None:
        if self._thread is None:
            self._file.write(text)
        else:
            with contextlib.suppress(queue.Full):
                self._pieces.put_nowait(text.encode("utf-8", "backslashreplace"))

    def flush(self) -> None:
        if self._thread is None:
            self._file.flush()

    def close(self) -> None:
        """Wait up to PATIENCE seconds until everything is written."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._pieces.put(None, timeout=PATIENCE)
                self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            with contextlib.suppress(OSError):  # there is no reader, or the disk is full: the text is lost
                while piece:
                    piece = piece[os.write(self._number, piece) :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Lines:
    """Appends complete lines to a file.

    Args:
        path: The file. If its last line is incomplete, for example after a kill, a new line is begun.
    """

    def __init__(self, path: Path):
        self.path = path
        self._open()

    def _open(self) -> None:
        self.file = self.path.open("ab", buffering=0)
        size = self.path.stat().st_size
        self._cut = False
        if size:
            with self.path.open("rb") as file:
                file.seek(size - 1)
                self._cut = file.read() != b"\n"

    def before(self) -> Iterator[bytes]:
        """The existing lines; long ones are divided. Empty if the path is no file: a device may have no end."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                yield from iter(functools.partial(file.readline, 1 << 20), b"")

    def add(self, text: str) -> None:
        """Append a line. The file is opened again if it was closed or deleted meanwhile. Raises OSError if nothing can
        be written."""
        if self.file.closed or self._deleted():
            old = self.file
            self._open()
            old.close()
        data = b"\n" * self._cut + text.encode() + b"\n"
        self._cut = self.file.write(data) < len(data)

    def _deleted(self) -> bool:
        try:
            return not os.fstat(self.file.fileno()).st_nlink
        except OSError:  # on a network file system
            return True

    def close(self) -> None:
        self.file.close()


class Silence:
    """The log of processes other than rank 0: the interface of RunLog, without any output."""

    def line(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def advance(self, updates: int = 1, course: Callable[[], str] = str) -> None: ...

    def metrics(self, kind: str, update: int, values: dict) -> None: ...

    def picture(self, file: str, draw: Callable[[Path], None], name: str, update: int) -> None: ...

    def show(self, method: str, name: str, update: int, content: Any) -> None: ...

    def close(self) -> None: ...
