"""Loggers of a run's numbers in addition to metrics.jsonl: TensorBoard, Weights & Biases."""

import os
from pathlib import Path

from s2s.config.documents import read_yaml
from s2s.errors import UserError


class TensorBoard:
    """Writes events to RUN/tensorboard.

    Args:
        run: The run's folder.
        done: Number of updates done before; events of later updates are discarded.
    """

    def __init__(self, run: Path, done: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def add(self, kind: str, update: int, values: dict[str, float]) -> None:
        """Log numbers of an update, under the names KIND/NAME."""
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, update)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """Logs to a run of the same name in Weights & Biases, in the project WANDB_PROJECT (default `s2s`). Its id is kept
    in RUN/wandb.id, so that a resumed run continues it.

    Args: as in TensorBoard.

    Raises:
        UserError: wandb is not installed, or refuses access.
    """

    def __init__(self, run: Path, done: int):
        file, config = run / "wandb.id", run / "config.yaml"
        known = file.read_text(encoding="utf-8") if file.is_file() else None
        try:
            self.run = _wandb().init(
                project=os.environ.get("WANDB_PROJECT", "s2s"), name=run.resolve().name, id=known, resume="allow",
                dir=str(run), config=read_yaml(config) if config.is_file() else None,
            )  # fmt: skip
        except Exception as error:  # wandb has its own error types
            raise UserError(f"train.loggers: wandb: {error}") from error
        file.write_text(self.run.id, encoding="utf-8")
        # Steps of wandb can only rise, but a resumed run may repeat some updates.
        self.run.define_metric("*", step_metric="update")

    def add(self, kind: str, update: int, values: dict[str, float]) -> None:
        """Log numbers of an update, under the names KIND/NAME."""
        self.run.log({f"{kind}/{name}": value for name, value in values.items()} | {"update": update})

    def close(self) -> None:
        self.run.finish()


def check(names: list[str]) -> None:
    """Check that the loggers are installed. Raises UserError."""
    if "wandb" in names:
        _wandb()


def _wandb():
    try:
        import wandb
    except ImportError as error:
        raise UserError("train.loggers: wandb is not installed: pip install wandb") from error
    return wandb
