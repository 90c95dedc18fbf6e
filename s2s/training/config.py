"""The options of the training loop."""

import dataclasses

from s2s import registry
from s2s.config.schema import option
from s2s.training.initialise import InitConfig
from s2s.training.stages import TrainStageConfig

METRICS = registry.Names("metric", "loss")  # of a validation


@dataclasses.dataclass
class TrainConfig:
    """Options of the training loop."""

    max_updates: int = option(100_000, "stop after this many updates", at_least=1)
    max_epochs: int | None = option(None, "stop after this many epochs; null: no limit", at_least=1)
    calibrate: bool = option(
        False, "find data.batch_tokens first: the largest that fits on a GPU, the fastest on a CPU; needs minutes"
    )
    init: InitConfig = option(InitConfig, "what to start from")
    freeze: list[str] = option([], "what is not trained: embeddings, encoder, decoder, or patterns of parameter names")
    stages: list[TrainStageConfig] = option(
        [], "one after the other, such as [{updates:1000,freeze:[encoder]},{factor:0.5}]; see data.stages for the data"
    )
    accumulate: int = option(1, "batches whose gradients make one update", at_least=1)
    clip_norm: float = option(1.0, "largest norm of the gradient; larger ones are scaled down; 0: no limit", at_least=0)
    on_divergence: str = option(
        "skip",
        "when the loss leaves its course: stop; skip: only updates that are not finite, and warn; rollback: go back to "
        "the checkpoint before, and on with the data in another order",
        ("stop", "skip", "rollback"),
    )
    checkpoint_activations: bool = option(
        False, "compute each layer once more in the backward pass: less memory, a quarter to a third more work"
    )
    compile: bool = option(False, "compile the layers, which takes a minute or so; on a CPU it needs a C++ compiler")
    precision: str = option("auto", "auto: bf16 on a GPU, fp32 on a CPU", ("auto", "fp32", "bf16"))
    ema: float = option(0.0, "decay of an average of the weights that is validated and decoded with; 0: none",
                        at_least=0, below=1)  # fmt: skip
    valid_updates: int = option(1000, "validate every so many updates, and at the end", at_least=1)
    valid_metrics: list[str] = option(["loss"], "loss, and metrics of decoded text", METRICS)
    best_metric: str | None = option(None, "which of valid_metrics picks the best; null: the last one", METRICS)
    patience: int = option(0, "stop after so many validations in a row without a new best; 0: never", at_least=0)
    checkpoint_updates: int | None = option(None, "save every so many updates; null: at validations", at_least=1)
    checkpoint_minutes: float = option(30.0, "save when so many minutes have passed since the last save", at_least=0)
    keep_last: int = option(2, "how many of the newest checkpoints stay", at_least=1)
    keep_best: int = option(1, "how many of the best checkpoints stay", at_least=1)
    log_updates: int = option(100, "report every so many updates", at_least=1)
    loggers: list[str] = option(
        ["tensorboard"],
        "where numbers go beside metrics.jsonl; wandb: Weights & Biases, if installed",
        registry.Names("logger"),
    )
    profile: bool = option(False, "trace a few updates to RUN/profile.json, say where their time went, and go on")
    samples: int = option(3, "decoded samples to show after each validation", at_least=0)
    attention_maps: bool = option(
        False, "draw what the model looks at in these, by decode.alignment_*, to RUN/attention"
    )
