"""Saves checkpoints in a thread while training goes on. A failed save does not affect earlier checkpoints."""

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

SLOW = 60.0  # seconds that training waits for a save before it warns


class Saver:
    """Writes the checkpoints of a run, one at a time, in a thread; old checkpoints are deleted.

    Tensors are copied first, so that training can go on at once. If a save fails, for example because the disk is full,
    older checkpoints are unchanged, and nothing incomplete is left.

    Args:
        run: The run's folder.
        task: Saves its tokenizers into each checkpoint.
        keep_last: Number of newest checkpoints to keep.
        keep_best: Number of best checkpoints to keep.
        metric: The metric that decides which are the best.

    Attributes:
        failed: The update whose save failed, and the error; None: the last save did not fail.
    """

    def __init__(self, run: Path, task, keep_last: int, keep_best: int, metric: str):
        self.run, self.task, self.keep_last, self.keep_best, self.metric = run, task, keep_last, keep_best, metric
        self.failed: tuple[int, OSError] | None = None
        self._thread = ThreadPoolExecutor(1)
        self._going_on: tuple[int, Future] | None = None

    def begin(self, update: int, tensors: dict[str, dict[str, Tensor]], texts: dict[str, str], log: RunLog,
              trusted: int, part: Part | None = None) -> None:  # fmt: skip
        """Copy the content of a checkpoint, and start to write it, after the previous save has ended.

        Args:
            update: Number of the update.
            tensors, texts: As in `checkpoints.write`.
            log: The log of the run.
            trusted: The newest checkpoint up to this update is kept, too.
            part: This rank's part of sharded states; ranks other than 0 write only this.
        """
        self.finish(log)
        copies = {
            name: {key: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                   for key, value in content.items()}
            for name, content in tensors.items()
        }  # fmt: skip
        self._going_on = update, self._thread.submit(self._write, update, copies, texts, trusted, part)

    def poll(self, log: RunLog) -> None:
        """If a save has ended, log its result."""
        if self._going_on and self._going_on[1].done():
            self.finish(log)

    def finish(self, log: RunLog) -> None:
        """Wait for the running save, if there is one, and log its result."""
        if not self._going_on:
            return
        (update, future), self._going_on = self._going_on, None
        if not wait([future], SLOW).done:
            log.line(f"warning: the save of update {update} is slow, and training waits for it; check the disk")
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
        """Wait for the last save at the end of a run. Raises Failure if it failed."""
        self.finish(log)
        if self.failed:
            raise Failure(f"run={self.run}: {self._why()}; free some space, and repeat the command to resume from it")

    def _why(self) -> str:
        """A message about the failed save: its update, the error, and the newest checkpoint."""
        update, error = self.failed
        existing = runs.steps(self.run)
        older = f"the newest one is {existing[-1].name}" if existing else "there is none yet"
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
                except OSError as error:  # the new checkpoint is saved nevertheless
                    print(f"warning: {folder} could not be deleted; delete it yourself: {error}", file=sys.stderr)
