"""What a run says: lines or a progress bar for people, metrics.jsonl and TensorBoard events for programs."""

import json
import sys
import time
from pathlib import Path

from tqdm import tqdm


class RunLog:
    """Writes to standard error, to RUN/train.log, RUN/metrics.jsonl and RUN/tensorboard; everything is appended.

    Args:
        run: The run's folder.
        total: Updates of the whole run, for the bar.
        done: Updates done before.
    """

    def __init__(self, run: Path, total: int | None, done: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.text = (run / "train.log").open("a", encoding="utf-8")
        self.jsonl = (run / "metrics.jsonl").open("a", encoding="utf-8")
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)
        self.bar = tqdm(total=total, initial=done, unit="update", dynamic_ncols=True) if sys.stderr.isatty() else None

    def line(self, text: str) -> None:
        """A line for people, with the time of day in the log file."""
        if self.bar is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self.bar.write(text, file=sys.stderr)
        print(time.strftime("%Y-%m-%d %H:%M:%S"), text, file=self.text, flush=True)

    def advance(self) -> None:
        """One more update is done."""
        if self.bar is not None:
            self.bar.update()

    def metrics(self, kind: str, update: int, values: dict) -> None:
        """Numbers for programs; `kind` is train, valid or an event such as resume."""
        print(json.dumps({"kind": kind, "update": update, "time": round(time.time(), 1), **values}), file=self.jsonl)
        self.jsonl.flush()
        for name, value in values.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                self.board.add_scalar(f"{kind}/{name}", value, update)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
        for stream in (self.text, self.jsonl, self.board):
            stream.close()
