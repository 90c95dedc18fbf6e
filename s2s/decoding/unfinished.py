"""Unfinished output: what has been decoded is kept beside the output, and the same command goes on after it.

    .unfinished-NAME/task.json               what is decoded, and with which options
    .unfinished-NAME/lines                   the output of the first windows of the input
    .unfinished-NAME/state.json              how many windows these are, and how many bytes of `lines`
    .unfinished-NAME/00000012-89abcdef-4096  the output of a later window: its number, checksum of its input, sentences;
                                             the last line has its totals

A window appears in a file of its own, whole and on disk. Rank 0 appends the next ones to `lines`, then writes
state.json, then deletes their files. So a process may be killed at any moment: `lines` is cut to the bytes of
state.json, and no line is lost or doubled.
"""

import os
import re
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from s2s import files
from s2s.config.documents import parse_json, read_json, to_json
from s2s.decoding.totals import Totals
from s2s.errors import Failure, UserError
from s2s.parts import difference

FORMAT = 2
REMEDY = "overwrite=true starts anew"
STATE = {"windows": int, "bytes": int, "mark": int, "sentences": int, "totals": {...: object}}
TASK = {"format": int, "window": [int], "task": {...: object}}
PIECE = re.compile(r"(\d{8})-([0-9a-f]{8})-(\d+)")


@dataclass
class State:
    """The windows that are decoded.

    Attributes:
        window: Maximum number of sentences and of bytes in a window.
        windows: Number of windows in `lines`, and of those before the first one that is wanted.
        bytes: Bytes of their output.
        mark: Checksum of their input, except for those that are not wanted.
        sentences: Number of their sentences.
        pieces: Number -> checksum of the input, for later windows.
        totals: Totals of the windows in `lines`, as JSON has them.
    """

    window: tuple[int, int]
    windows: int
    bytes: int
    mark: int
    sentences: int
    pieces: dict[int, int]
    totals: dict[str, Any] = field(default_factory=lambda: Totals().plain())


class Unfinished:
    """The unfinished output of a range of windows.

    Args:
        output: The output file.
        first: Number of the first window.

    Attributes:
        state: What is decoded; None before `begin`, and on other ranks than 0.
    """

    def __init__(self, output: str | Path, first: int = 0):
        self.output, self.first = output, first
        self.place = files.regular(output, "output")
        self.folder = self.place.with_name(f".unfinished-{self.place.name}")
        self.lines = self.folder / "lines"
        self.state: State | None = None

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """For rank 0: the right to write the output, as `files.claim`. If nothing is decoded in the end, nothing is
        left; otherwise a message says what is kept after an interrupt."""
        with files.claim(self.output, "output"):
            try:
                yield
            except BaseException as error:
                self._leave(isinstance(error, (KeyboardInterrupt, SystemExit)))
                raise

    def _leave(self, say: bool) -> None:
        if self.state is None:  # it was not begun here
            return
        with suppress(OSError):
            self.join()
        if self.state.windows == self.first and not self._pieces():
            files.clear(self.folder)
        elif say:
            kept = self.state.sentences
            print(f"output={self.output}: {kept:,} sentences are decoded; the same command goes on after them",
                  file=sys.stderr)  # fmt: skip

    def begin(self, task: dict[str, Any], window: tuple[int, int], overwrite: bool) -> State:
        """For rank 0: begin, or go on.

        Args:
            task: What is decoded, and with which options, as JSON has it.
            window: As in State, unless the output has been begun.
            overwrite: Whether to start anew in any case.

        Raises:
            UserError: the output was begun with another task, or its files are damaged.
        """
        begun = (self.folder / "state.json").exists() or self._pieces()
        if overwrite or not begun or not self.lines.exists():  # without `lines` the output was completed
            files.clear(self.folder)
        if not self.folder.exists():
            self.folder.mkdir()
            content = {"format": FORMAT, "window": window, "task": task}
            files.replace(self.folder / "task.json", to_json(content, indent=1) + "\n")
            self.lines.touch()
        before = read_json(self.folder / "task.json", TASK, REMEDY)
        if before["format"] != FORMAT:
            raise UserError(f"{self.folder}: an unfinished output of another version; {REMEDY}")
        if words := difference(before["task"], task):
            raise UserError(f"output={self.output}: was begun, and is unfinished, with {words}; repeat that "
                            f"command to go on, or {REMEDY}")  # fmt: skip
        self.state = State(tuple(before["window"]), self.first, 0, 0, 0, {})
        if (self.folder / "state.json").exists():
            vars(self.state).update(read_json(self.folder / "state.json", STATE, REMEDY))
        if self.lines.stat().st_size < self.state.bytes:
            raise UserError(f"{self.lines}: damaged; {REMEDY}")
        os.truncate(self.lines, self.state.bytes)
        for path in self.folder.iterdir():  # what a killed process has left
            match = PIECE.fullmatch(path.name)
            if path.name.startswith(".") or (match and int(match[1]) < self.state.windows):
                files.clear(path)
        self.state.pieces = {number: mark for number, (_, mark, _) in self._pieces().items()}
        return self.state

    @contextmanager
    def piece(self, rank: int) -> Iterator["Piece"]:
        """A file for the output of a window."""
        with files.naming(self.output), open(self.folder / f".{rank}", "wb") as file:
            yield Piece(file, self)

    def join(self) -> bool:
        """For rank 0: append the next windows that are decoded to `lines`. Returns whether any are there."""
        state, pieces, joined = self.state, self._pieces(), []
        totals = Totals.of_plain(state.totals)
        with files.naming(self.output), open(self.lines, "r+b") as file:
            file.seek(state.bytes)
            while state.windows in pieces:
                path, mark, sentences = pieces[state.windows]
                content = path.read_bytes()
                end = content.rindex(b"\n") + 1
                file.write(content[:end])
                totals = Totals.of_all([totals, Totals.of_plain(parse_json(content[end:], str(path), remedy=REMEDY))])
                state.mark = chained(state.mark, mark)
                state.sentences += sentences
                state.windows += 1
                joined.append(path)
            if joined:
                state.totals = totals.plain()
                state.bytes = file.tell()
                file.flush()
                os.fsync(file.fileno())
                files.replace(self.folder / "state.json", to_json({key: getattr(state, key) for key in STATE}))
        for path in joined:
            path.unlink()
        return state.windows > self.first

    def finish(self, last: int) -> None:
        """For rank 0: complete the output, which has the windows up to `last` - 1."""
        self.join()
        if self.state.windows != max(last, self.first):
            raise Failure(f"window {self.state.windows} of {last} is missing in {self.folder}")
        with files.naming(self.output):
            self.lines.replace(self.place)
            files.flush(self.place.parent)
        files.clear(self.folder)

    def _pieces(self) -> dict[int, tuple[Path, int, int]]:
        """Number of each window with a file of its own -> the file, checksum of its input, number of its sentences."""
        names = filter(None, map(PIECE.fullmatch, os.listdir(self.folder))) if self.folder.exists() else ()
        return {int(match[1]): (self.folder / match[0], int(match[2], 16), int(match[3])) for match in names}


class Piece:
    """The output of a window, while it is decoded."""

    def __init__(self, file: BinaryIO, output: Unfinished):
        self.file, self.write, self._output = file, file.write, output

    def finish(self, number: int, mark: int, totals: Totals) -> None:
        """Complete it. `totals`: those of the window alone."""
        self.write(to_json(totals.plain()).encode())
        self.file.flush()
        os.fsync(self.file.fileno())
        os.rename(self.file.name, self._output.folder / f"{number:08d}-{mark:08x}-{totals.sentences}")


class Turns:
    """Decides which windows this process decodes: one after the other, each the next one that no process has taken.

    Args:
        state: What is decoded already.
        first: Number of the first window.
        last: Number after that of the last one; None: the end of the input.
        draw: Returns 0, 1, 2 ... to the processes, each once.
        output: The output file, for messages.

    Attributes:
        windows: Number of windows up to here, or `last`.
    """

    def __init__(self, state: State, first: int, last: int | None, draw: Callable[[], int], output: str):
        self.state = replace(state)  # that of rank 0 goes on
        self.first, self.last, self.draw, self.output = first, last, draw, output
        self._turn, self._mark, self.windows = -1, 0, 0

    def __call__(self, number: int, mark: Callable[[], int]) -> bool:
        """Whether to decode a window. Raises UserError if its input was another one when it was decoded.

        Args:
            number: Its number; every call has the next one.
            mark: Returns the checksum of its input.
        """
        if number < self.first or (self.last is not None and number >= self.last):
            return False
        self.windows = number + 1
        if number < self.state.windows:
            self._mark = chained(self._mark, mark())
            if number == self.state.windows - 1 and self._mark != self.state.mark:
                raise self._changed(f"one of the first {self.state.sentences:,} sentences")
            return False
        if self._turn < number:
            self._turn = self.state.windows + self.draw()
        known = self.state.pieces.get(number)
        if known is not None and known != mark():
            raise self._changed(f"a sentence of window {number}")
        return number == self._turn and known is None

    def _changed(self, what: str) -> UserError:
        return UserError(f"output={self.output}: is unfinished, and the input has changed since it was begun: {what}; "
                         f"{REMEDY}")  # fmt: skip


def chained(mark: int, following: int) -> int:
    """The checksum of some windows and the following one."""
    return zlib.crc32(following.to_bytes(4, "little"), mark)
