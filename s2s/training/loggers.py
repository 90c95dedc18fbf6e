"""Where the numbers of a run go beside its metrics.jsonl: TensorBoard, Weights & Biases."""

import os
from pathlib import Path

from s2s.config.documents import read_yaml
from s2s.errors import UserError


class TensorBoard:
    """Events in RUN/tensorboard.

    Args:
        run: The run's folder.
        done: Updates done before; what there is of later ones is done over again.
    """

    def __init__(self, run: Path, done: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def add(self, kind: str, update: int, values: dict[str, float]) -> None:
        """Numbers of an update, under the name KIND/NAME."""
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, update)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of the same name in Weights & Biases, in the project of WANDB_PROJECT, or `s2s`. Its id is kept in
    RUN/wandb.id, so that a resumed run goes on with it.

    Args: as of TensorBoard.

    Raises:
        UserError: it is not installed, or does not let us in.
    """

    def __init__(self, run: Path, done: int):
        file, config = run / "wandb.id", run / "config.yaml"
        known = file.read_text(encoding="utf-8") if file.is_file() else None
        try:
            self.run = _wandb().init(
                project=os.environ.get("WANDB_PROJECT", "s2s"), name=run.resolve().name, id=known, resume="allow",
                dir=str(run), config=read_yaml(config) if config.is_file() else None,
            )  # fmt: skip
        except Exception as error:  # its own kinds of errors, of which all that we need is what they say
            raise UserError(f"train.loggers: wandb: {error}") from error
        file.write_text(self.run.id, encoding="utf-8")
        # Its own steps only rise, and a resumed run may have to do some updates over again.
        self.run.define_metric("*", step_metric="update")

    def add(self, kind: str, update: int, values: dict[str, float]) -> None:
        """Numbers of an update, under the name KIND/NAME."""
        self.run.log({f"{kind}/{name}": value for name, value in values.items()} | {"update": update})

    def close(self) -> None:
        self.run.finish()


def check(names: list[str]) -> None:
    """See whether the loggers of these names are installed. Raises UserError."""
    if "wandb" in names:
        _wandb()


def _wandb():
    try:
        import wandb
    except ImportError as error:
        raise UserError("train.loggers: wandb is not installed: pip install wandb") from error
    return wandb
