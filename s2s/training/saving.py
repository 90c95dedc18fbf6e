"""Saving beside the training: a thread writes what was copied, and a save that fails loses nothing but itself."""

import contextlib
import math
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import torch
from torch import Tensor

from s2s import files
from s2s.checkpoint import runs
from s2s.errors import Failure
from s2s.training import checkpoints
from s2s.training.log import RunLog
from s2s.training.sharding import Part
from s2s.training.validation import higher_is_better

SLOW = 60.0  # seconds that training waits for a save before it says so


class Saver:
    """Writes the checkpoints of a run, one at a time, in a thread; older ones that need not be kept go.

    What is saved is copied first, so that training may go on at once. A save that fails, on a full disk say, leaves
    the older checkpoints as they are and nothing half-written.

    Args:
        run: The run's folder.
        task: Saves its tokenizers into each checkpoint.
        keep_last: How many of the newest checkpoints stay.
        keep_best: How many of the best checkpoints stay.
        metric: What the best are known by.

    Attributes:
        failed: The update whose save failed, and why; None where the latest save that has ended did not fail.
    """

    def __init__(self, run: Path, task, keep_last: int, keep_best: int, metric: str):
        self.run, self.task, self.keep_last, self.keep_best, self.metric = run, task, keep_last, keep_best, metric
        self.failed: tuple[int, OSError] | None = None
        self._thread = ThreadPoolExecutor(1)
        self._going_on: tuple[int, Future] | None = None

    def begin(self, update: int, tensors: dict[str, dict[str, Tensor]], texts: dict[str, str], log: RunLog,
              trusted: int, part: Part | None = None) -> None:  # fmt: skip
        """Copy a checkpoint's content, as `checkpoints.write` wants it, and have it written; first the save before this
        one ends. The newest checkpoint up to update `trusted` stays, too. Other ranks than 0 write their part."""
        self.finish(log)
        copies = {
            name: {key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                   for key, value in content.items()}
            for name, content in tensors.items()
        }  # fmt: skip
        self._going_on = update, self._thread.submit(self._write, update, copies, texts, trusted, part)

    def poll(self, log: RunLog) -> None:
        """Say how a save has ended, if one has."""
        if self._going_on and self._going_on[1].done():
            self.finish(log)

    def finish(self, log: RunLog) -> None:
        """Wait for the save that is going on, if there is one, and say how it ended."""
        if not self._going_on:
            return
        (update, future), self._going_on = self._going_on, None
        if not wait([future], SLOW).done:
            log.line(f"warning: the save of update {update} is slow, and training waits for it; does the disk answer?")
        try:
            folder = future.result()
        except OSError as error:
            self.failed = update, error
            log.line(f"warning: {self._why()}; training goes on, and the next save tries again")
            log.metrics("save_failed", update, {"reason": str(error)})
        else:
            self.failed = None
            log.metrics("checkpoint", update, {"folder": folder.name})

    def close(self, log: RunLog) -> None:
        """The end of a run that was saved: wait. Raises Failure when that save failed."""
        self.finish(log)
        if self.failed:
            raise Failure(f"run={self.run}: {self._why()}; make room, and repeat the command to go on from there")

    def _why(self) -> str:
        """Of a save that failed: what, why, and what there is."""
        update, error = self.failed
        there = runs.steps(self.run)
        older = f"the newest one is {there[-1].name}" if there else "there is none yet"
        return f"the checkpoint of update {update} could not be saved: {error}; {older}"

    def _write(self, update: int, tensors: dict[str, dict[str, Tensor]], texts: dict[str, str], trusted: int,
               part: Part | None) -> Path:  # fmt: skip
        folder = self.run / "checkpoints" / f"step_{update:08d}"
        with part.shared() if part else contextlib.nullcontext():
            if not tensors:
                return folder
            checkpoints.write(folder, tensors, texts, self.task, part)
        checkpoints.link(self.run, "last", folder)
        self._prune(trusted)
        return folder

    def _prune(self, trusted: int) -> None:
        """Keep the newest and the best checkpoints, and the newest up to update `trusted`."""
        folders = runs.steps(self.run)
        sign = -1 if higher_is_better(self.metric) else 1

        def score(folder: Path) -> float:
            value = runs.validated(folder, self.metric)
            return math.inf if value is None or not math.isfinite(value) else sign * value

        ranked = sorted(folders, key=score)
        best = [folder for folder in ranked[: self.keep_best] if score(folder) < math.inf]
        if best:
            checkpoints.link(self.run, "best", best[0])
        before = [folder for folder in folders if runs.update_of(folder) <= trusted]
        kept = {*best, *folders[-self.keep_last :], *before[-1:]}
        for folder in folders:
            if folder not in kept:
                try:
                    files.remove(folder)
                except OSError as error:  # it has no say in whether the new one was saved
                    print(f"warning: {folder} is left behind, and can be deleted: {error}", file=sys.stderr)
