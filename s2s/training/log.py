"""What a run says: lines or a progress bar for people, metrics.jsonl and the loggers' events for programs."""

import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from s2s import registry


class RunLog:
    """Writes to standard error, to RUN/train.log, RUN/metrics.jsonl and to loggers; everything is appended.

    What cannot be written to a file, because the disk is full say, is lost, which is said once, and ends nothing.

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
        self.failing: set[str] = set()
        self.bar = tqdm(total=total, initial=done, unit="update", dynamic_ncols=True) if sys.stderr.isatty() else None

    def line(self, text: str) -> None:
        """A line for people, with the time of day in the log file."""
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.write(text, file=sys.stderr)
        self._try("train.log", lambda: self.text.add(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}"))

    def advance(self, updates: int = 1) -> None:
        """So many more updates are done; after a rollback less than none."""
        if self.bar is not None:
            self.bar.update(updates)

    def metrics(self, kind: str, update: int, values: dict) -> None:
        """Numbers for programs; `kind` is train, valid or an event such as resume."""
        event = {"kind": kind, "update": update, "time": round(time.time(), 1), **values}
        self._try("metrics.jsonl", lambda: self.jsonl.add(json.dumps(event)))
        scalars = {k: v for k, v in values.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        for name, logger in self.loggers.items():
            if name not in self.failing:  # they do not recover
                self._try(name, functools.partial(logger.add, kind, update, scalars))

    def picture(self, name: str, draw: Callable[[Path], None]) -> None:
        """A picture: `draw` writes RUN/name."""
        self._try(str(Path(name).parent), lambda: draw(self.run / name))

    def _try(self, name: str, write: Callable[[], Any]) -> None:
        try:
            write()
            self.failing.discard(name)
        except OSError as error:
            if name not in self.failing:
                self.failing.add(name)
                self.line(f"warning: {name} of the run cannot be written: {error}; what it lacks is lost")

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        self.text.close()
        self.jsonl.close()
        for logger in self.loggers.values():
            with contextlib.suppress(OSError):
                logger.close()


class Lines:
    """Appends whole lines to a file.

    Args:
        path: The file. Where its last line was cut off, by a kill say, it ends there, and a new one begins.
    """

    def __init__(self, path: Path):
        self.file = path.open("ab", buffering=0)
        size = path.stat().st_size
        self._cut = False
        if size:
            with path.open("rb") as file:
                file.seek(size - 1)
                self._cut = file.read() != b"\n"

    def add(self, text: str) -> None:
        """Append a line. Raises OSError where there is no space for any of it."""
        data = b"\n" * self._cut + text.encode() + b"\n"
        self._cut = self.file.write(data) < len(data)

    def close(self) -> None:
        self.file.close()


class Silence:
    """The log of a process that is not the first: RunLog's, and none of it is written."""

    def line(self, text: str) -> None: ...

    def advance(self, updates: int = 1) -> None: ...

    def metrics(self, kind: str, update: int, values: dict) -> None: ...

    def picture(self, name: str, draw: Callable[[Path], None]) -> None: ...

    def close(self) -> None: ...
