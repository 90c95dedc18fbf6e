"""s2s-train: train a model on a store; the run folder holds its checkpoints."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

from s2s.config import command
from s2s.config.schema import LARGEST_SEED, group, option
from s2s.data.iterator import DataConfig
from s2s.errors import UserError
from s2s.training.config import TrainConfig
from s2s.training.distributed import DistributedConfig


@dataclasses.dataclass
class TrainCommand:
    """Schema of s2s-train."""

    COMMON = (
        "store", "run", "model", "task", "optim.lr", "optim.warmup_updates", "model.dropout",
        "criterion.cross_entropy.label_smoothing", "data.batch_tokens", "train.max_updates", "train.accumulate",
        "train.valid_updates", "train.valid_metrics", "train.best_metric", "train.patience", "train.precision",
        "device", "seed", "overwrite",
    )  # fmt: skip

    store: list[str] = option([], "folder written by s2s-preprocess, or a list of them with the same tokenizers")
    run: str | None = option(None, "folder of the run; an unfinished run in it is resumed")
    seed: int = option(1, "seed of the initial weights, dropout and the order of the data", at_least=0,
                       at_most=LARGEST_SEED)  # fmt: skip
    workers: int = option(
        1, "threads that prepare batches ahead of time; the batches do not depend on their number", at_least=0
    )
    device: str = option("auto", "auto: a GPU if there is one", ("auto", "cpu", "cuda"))
    plugins: list[str] = option([], "folders with components of your own, each with an entry_points.txt")
    overwrite: bool = option(False, "delete the run in the folder and start anew")
    task: Any = group("task", "translation", "what an example is")
    model: Any = group("model", "transformer_base", "architecture and size")
    criterion: Any = group("criterion", "cross_entropy", "the loss")
    optim: Any = group("optim", "adam", "optimizer and learning-rate schedule")
    data: DataConfig = option(DataConfig, "the training data and its batches")
    train: TrainConfig = option(TrainConfig, "the training loop")
    distributed: DistributedConfig = option(DistributedConfig, "training in several processes")
    decode: Any = group("decode", "default", "decoding in validation, with the options of s2s-generate")


def _train(config: TrainCommand) -> None:
    from s2s.training.distributed import launch, launched
    from s2s.training.interrupt import PREEMPTED
    from s2s.training.run import train

    if config.distributed.processes > 1 and not launched():
        if "--multirun" in sys.argv:
            raise UserError(
                "distributed.processes and --multirun exclude each other: "
                "hydra or torchrun can start processes, not both"
            )
        sys.exit(launch(config.distributed.processes, "s2s_cli.train", sys.argv[1:]))
    interrupted = train(config)
    # After pre-emption a saved checkpoint is a success: exit code 0.
    if interrupted and interrupted not in PREEMPTED:
        sys.exit(128 + interrupted)


def _outcome():
    """What the runs of a sweep come to."""
    from s2s.config.sweep import Outcome
    from s2s.training import outcomes

    def value(config: TrainCommand) -> float | None:
        best = outcomes.best(Path(config.run or ""))
        return best[1] if best else None

    return Outcome(value, outcomes.maximise, outcomes.table)


def main() -> None:
    """Run the command."""
    command.run(
        "s2s-train",
        TrainCommand,
        _train,
        "Train a model on a store. Repeating the command resumes the run.",
        multirun=_outcome,
    )


if __name__ == "__main__":
    main()
