"""The options of the training loop."""

import dataclasses

from s2s import registry
from s2s.config.schema import option
from s2s.training.initialise import InitConfig
from s2s.training.stages import TrainStageConfig

METRICS = registry.Names("metric", "loss")  # the metrics of validation


@dataclasses.dataclass
class TrainConfig:
    """Options of the training loop."""

    max_updates: int = option(100_000, "stop after this many updates", at_least=1)
    max_epochs: int | None = option(None, "stop after this many epochs; null: no limit", at_least=1)
    calibrate: bool = option(False, "find data.batch_tokens first: the fastest that fits into memory; needs minutes")
    init: InitConfig = option(InitConfig, "checkpoints that supply the initial weights")
    freeze: list[str] = option([], "parameters to freeze: embeddings, encoder, decoder, or patterns of parameter names")
    stages: list[TrainStageConfig] = option(
        [], "stages of training, such as [{updates:1000,freeze:[encoder]},{factor:0.5}]; see data.stages for the data"
    )
    accumulate: int = option(1, "batches whose gradients make one update", at_least=1)
    clip_norm: float = option(1.0, "largest norm of the gradient; larger ones are scaled down; 0: no limit", at_least=0)
    on_divergence: str = option(
        "skip",
        "if the loss diverges: stop; skip: skip updates that are not finite, and warn; rollback: go back to the last "
        "checkpoint before that, and continue with the data in another order",
        ("stop", "skip", "rollback"),
    )
    checkpoint_activations: bool = option(
        False, "recompute each layer in the backward pass: less memory, a quarter to a third more work"
    )
    compile: bool = option(False, "compile the layers, which takes a minute or so; on a CPU it needs a C++ compiler")
    precision: str = option("auto", "auto: bf16 on a GPU that has it, else fp32", ("auto", "fp32", "bf16"))
    deterministic: bool = option(
        False, "on a GPU too, the same command gives the same bits; slower; on a CPU they are the same anyway"
    )
    ema: float = option(0.0, "decay of a moving average of the weights, used in validation and decoding; 0: none",
                        at_least=0, below=1)  # fmt: skip
    valid_updates: int = option(1000, "updates between validations; the last update is always validated", at_least=1)
    valid_metrics: list[str] = option(["loss"], "loss, and metrics of decoded text", METRICS)
    best_metric: str | None = option(
        None, "the one of valid_metrics that selects the best checkpoint; null: the last one", METRICS
    )
    patience: int = option(0, "stop after this many validations in a row without a new best; 0: never", at_least=0)
    checkpoint_updates: int | None = option(None, "updates between checkpoints; null: save at validations", at_least=1)
    checkpoint_minutes: float = option(30.0, "save also this many minutes after the last checkpoint", at_least=0)
    keep_last: int = option(2, "number of newest checkpoints to keep", at_least=1)
    keep_best: int = option(1, "number of best checkpoints to keep", at_least=1)
    log_updates: int = option(100, "updates between lines of the log", at_least=1)
    loggers: list[str] = option(
        ["tensorboard"],
        "loggers in addition to metrics.jsonl; wandb (Weights & Biases) and mlflow, if installed",
        registry.Names("logger"),
    )
    profile: bool = option(False, "trace a few updates to RUN/profile.json, and print where their time went")
    samples: int = option(3, "decoded samples to show after each validation", at_least=0)
    attention_maps: bool = option(
        False, "draw the cross-attention of these samples, by decode.alignment_*, to RUN/attention"
    )
