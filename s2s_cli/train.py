"""s2s-train: a store in, a run folder with checkpoints out."""

import dataclasses
import sys
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

    store: list[str] = option([], "folders written by s2s-preprocess; several, with the same tokenizers, are one")
    run: str | None = option(None, "folder of the run; one that holds an unfinished run is resumed")
    seed: int = option(1, "of the initial weights, dropout and the order of the data", at_least=0,
                       at_most=LARGEST_SEED)  # fmt: skip
    workers: int = option(1, "threads that prepare batches ahead of time; the batches do not depend on it", at_least=0)
    device: str = option("auto", "auto: a GPU where there is one", ("auto", "cpu", "cuda"))
    overwrite: bool = option(False, "delete the run that the folder holds and start anew")
    task: Any = group("task", "translation", "what an example is")
    model: Any = group("model", "transformer_base", "architecture and its size")
    criterion: Any = group("criterion", "cross_entropy", "what is minimised")
    optim: Any = group("optim", "adam", "optimizer and learning-rate schedule")
    data: DataConfig = option(DataConfig, "the training data and its batches")
    train: TrainConfig = option(TrainConfig, "the training loop")
    distributed: DistributedConfig = option(DistributedConfig, "training in several processes")
    decode: Any = group("decode", "default", "decoding in validation, the same as s2s-generate's")


def _train(config: TrainCommand) -> None:
    from s2s.training.distributed import launch, launched
    from s2s.training.interrupt import PREEMPTED
    from s2s.training.run import train

    if config.distributed.processes > 1 and not launched():
        if "--multirun" in sys.argv:
            raise UserError("distributed.processes and --multirun: hydra and torchrun cannot both start the processes")
        sys.exit(launch(config.distributed.processes, "s2s_cli.train", sys.argv[1:]))
    interrupted = train(config)
    # A saved checkpoint is all that a scheduler wants that pre-empts: exit code 0.
    if interrupted and interrupted not in PREEMPTED:
        sys.exit(128 + interrupted)


def main() -> None:
    """Run the command."""
    command.run(
        "s2s-train",
        TrainCommand,
        _train,
        "Train a model on a store. Repeating the command resumes the run.",
        multirun=True,
    )


if __name__ == "__main__":
    main()
