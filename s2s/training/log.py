"""What a run says: lines or a progress bar for people, metrics.jsonl and the loggers' events for programs."""

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

WAITING, PATIENCE = 1000, 10.0  # lines that wait for a reader of standard error, and seconds that the end waits for it
BEGINNINGS = (b'{"kind": "start"', b'{"kind": "resume"')  # of the first line of a session in metrics.jsonl


class RunLog:
    """Writes to standard error, to RUN/train.log, RUN/metrics.jsonl and to loggers; everything is appended.

    What cannot be written, because the disk is full say, is lost, which is said once, and ends nothing. Each line of
    metrics.jsonl has the number of its `session`: 1 is the start of the run, and each resume begins another one.

    Args:
        run: The run's folder.
        total: Updates of the whole run, for the bar.
        done: Updates done before.
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
            self.bar = tqdm(total=total, initial=done, unit="update", dynamic_ncols=True, file=self.console)

    def line(self, text: str) -> None:
        """A line for people, with the time of day in the log file."""
        if self.bar is None:
            self.console.write(f"{text}\n")
            self.console.flush()
        else:
            self.bar.write(text, file=self.console)
        self.note(text)

    def note(self, text: str) -> None:
        """A line of the log file alone."""
        self._try("train.log", lambda: self.text.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"))

    def advance(self, updates: int = 1) -> None:
        """So many more updates are done; after a rollback less than none."""
        if self.bar is not None:
            self.bar.update(updates)

    def metrics(self, kind: str, update: int, values: dict) -> None:
        """Numbers for programs, null where one is not finite; `kind` is train, valid or an event such as resume."""
        event = {"kind": kind, "update": update, "session": self.session, "time": round(time.time(), 1), **values}
        self._try("metrics.jsonl", lambda: self.jsonl.add(to_json(event)))
        scalars = {k: v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        for name, logger in self.loggers.items():
            if name not in self.failing:  # they do not recover
                self._try(name, functools.partial(logger.add, kind, update, scalars), Exception)

    def picture(self, name: str, draw: Callable[[Path], None]) -> None:
        """A picture: `draw` writes RUN/name."""
        self._try(str(Path(name).parent), lambda: draw(self.run / name), Exception)

    def _try(self, name: str, write: Callable[[], Any], errors: type[Exception] = OSError) -> None:
        """`write()`; what it raises of `errors` is said the first time. Those of libraries may be any."""
        try:
            write()
            self.failing.discard(name)
        except errors as error:
            if name not in self.failing:
                self.failing.add(name)
                why = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
                self.line(f"warning: {name} of the run cannot be written: {why}; what it lacks is lost")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        for name, logger in self.loggers.items():
            self._try(name, logger.close, Exception)
        self.text.close()
        self.jsonl.close()
        self.console.close()


class Console:
    """Standard error, for lines and a bar, which a thread writes: a reader that does not read, as a terminal that
    hangs, holds up nothing. Of what waits for it WAITING pieces are kept, and the rest is lost."""

    def __init__(self):
        self._file, self._thread = sys.stderr, None
        with contextlib.suppress(OSError, AttributeError):  # a caller's stream, which is none of the system's
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
        """Wait a while for all to be written."""
        if self._thread is not None:
            with contextlib.suppress(queue.Full):
                self._pieces.put(None, timeout=PATIENCE)
                self._thread.join(PATIENCE)

    def _work(self) -> None:
        while (piece := self._pieces.get()) is not None:
            with contextlib.suppress(OSError):  # nobody reads, or the disk is full: it is lost
                while piece:
                    piece = piece[os.write(self._number, piece) :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class Lines:
    """Appends whole lines to a file.

    Args:
        path: The file. Where its last line was cut off, by a kill say, it ends there, and a new one begins.
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
        """The lines that there are, of a file: a device may have no end. Long ones come in pieces."""
        if self.path.is_file():
            with self.path.open("rb") as file:
                yield from iter(functools.partial(file.readline, 1 << 20), b"")

    def add(self, text: str) -> None:
        """Append a line; a file that was deleted meanwhile begins anew, and one that was closed is opened for it.
        Raises OSError where there is no space for any of it."""
        if self.file.closed or self._deleted():
            old = self.file
            self._open()
            old.close()
        data = b"\n" * self._cut + text.encode() + b"\n"
        self._cut = self.file.write(data) < len(data)

    def _deleted(self) -> bool:
        try:
            return not os.fstat(self.file.fileno()).st_nlink
        except OSError:  # as a network file system has it
            return True

    def close(self) -> None:
        self.file.close()


class Silence:
    """The log of a process that is not the first: RunLog's, and none of it is written."""

    def line(self, text: str) -> None: ...

    def note(self, text: str) -> None: ...

    def advance(self, updates: int = 1) -> None: ...

    def metrics(self, kind: str, update: int, values: dict) -> None: ...

    def picture(self, name: str, draw: Callable[[Path], None]) -> None: ...

    def close(self) -> None: ...
