"""Loggers of a run's numbers in addition to metrics.jsonl: TensorBoard, Weights & Biases, MLflow.

A logger may have methods `text` and `image` too; then it gets the samples and the attention maps of validations.
A method `end` gets the reason why the run ends, as in metrics.jsonl: `failure`, or a signal such as `SIGTERM`, or the
option that ended the training.
"""

import os
import time
from pathlib import Path

from s2s.config.documents import read_yaml
from s2s.errors import UserError
from s2s.training.outcomes import flat


class TensorBoard:
    """Writes to RUN/tensorboard: numbers, samples as text, attention maps as images. When the run ends, it writes
    its config and its last validation as hyper-parameters and their metrics.

    Args:
        run: The run's folder.
        done: Number of updates done before; events of later updates are discarded.
    """

    def __init__(self, run: Path, done: int):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.run, self.valid = run, {}
        self.writer = SummaryWriter(str(run / "tensorboard"), purge_step=done + 1)

    def add(self, kind: str, update: int, values: dict[str, float]) -> None:
        """Log numbers of an update, under the names KIND/NAME."""
        for name, value in values.items():
            self.writer.add_scalar(f"{kind}/{name}", value, update)
        if kind == "valid":
            self.valid = {f"{kind}/{name}": float(value) for name, value in values.items()}

    def text(self, name: str, update: int, text: str) -> None:
        """Log a text in Markdown."""
        self.writer.add_text(name, text, update)

    def image(self, name: str, update: int, path: Path) -> None:
        """Log a PNG file."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self.writer.add_image(name, np.asarray(image.convert("RGB")), update, dataformats="HWC")

    def close(self) -> None:
        from torch.utils.tensorboard.summary import hparams

        config = self.run / "config.yaml"
        if self.valid and config.is_file():
            plain = {key: value if isinstance(value, (bool, int, float, str)) else str(value)
                     for key, value in flat(read_yaml(config)).items()}  # fmt: skip
            for summary in hparams(plain, self.valid):
                self.writer._get_file_writer().add_summary(summary)
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


class MLflow:
    """Logs to a run of the same name in MLflow, in the experiment MLFLOW_EXPERIMENT_NAME (default `s2s`) of the server
    or database MLFLOW_TRACKING_URI (default RUN/mlflow.db). Its id is kept in RUN/mlflow.id, so that a resumed run
    continues it.

    Args: as in TensorBoard.

    Raises:
        UserError: mlflow is not installed, or the server refuses access.
    """

    status = "FAILED"  # unless the training comes to its end

    def __init__(self, run: Path, done: int):
        file, config = run / "mlflow.id", run / "config.yaml"
        self.mlflow = _mlflow()
        address = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{run.resolve()}/mlflow.db")
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "s2s")
        try:
            self.client = self.mlflow.MlflowClient(address)
            if file.is_file():
                self.id = file.read_text(encoding="utf-8")
                self.client.update_run(self.id, "RUNNING")
                return
            experiment = self.client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self.client.create_experiment(name)
            self.id = self.client.create_run(number, run_name=run.resolve().name).info.run_id
            for key, value in flat(read_yaml(config)).items() if config.is_file() else ():
                self.client.log_param(self.id, key, str(value))
        except Exception as error:  # mlflow has its own error types
            raise UserError(f"train.loggers: mlflow: {error}") from error
        file.write_text(self.id, encoding="utf-8")

    def add(self, kind: str, update: int, values: dict[str, float]) -> None:
        """Log numbers of an update, under the names KIND/NAME."""
        now = int(1000 * time.time())
        metrics = [
            self.mlflow.entities.Metric(f"{kind}/{name}", float(value), now, update) for name, value in values.items()
        ]
        self.client.log_batch(self.id, metrics=metrics)

    def end(self, reason: str) -> None:
        """Remember how the run ends: FAILED, KILLED (by a signal) or FINISHED."""
        if reason != "failure":
            self.status = "KILLED" if reason.startswith("SIG") else "FINISHED"

    def close(self) -> None:
        self.client.set_terminated(self.id, self.status)


def check(names: list[str]) -> None:
    """Check that the loggers are installed. Raises UserError."""
    if "wandb" in names:
        _wandb()
    if "mlflow" in names:
        _mlflow()


def _mlflow():
    try:
        import mlflow
        import mlflow.entities
    except ImportError as error:
        raise UserError("train.loggers: mlflow is not installed: pip install mlflow") from error
    return mlflow


def _wandb():
    try:
        import wandb
    except ImportError as error:
        raise UserError("train.loggers: wandb is not installed: pip install wandb") from error
    return wandb
