"""The term of MrT5's deletion gate. A controller changes its weight to reach a target share of deleted positions.

Paper: Kallini et al., "MrT5: Dynamic Token Merging for Efficient Byte-level Language Models", ICLR 2025,
https://arxiv.org/abs/2410.20771.

The term is the mean over source positions of g + k, with the gates g of `model.encoder=deletion`. It is 0 if all
positions are deleted, and k if none is. After each update its weight becomes max(0, proportional * p + integral * i).
Here share is the share of positions with g < -k / 2, p is a moving average of target - share with the factor `memory`,
and i is the sum of these differences. The controller is saved in checkpoints. The metric `deleted` reports the share,
in validation too.

Use: `model.encoder=deletion criterion=deletion criterion.deletion.target=0.5`

Left out: a constant weight in place of the controller is `criterion.deletion.target=null`. Uncertain: the constants are
those of public code after the paper.
"""

import dataclasses

import torch

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class DeletionConfig(TermConfig):
    """Options of the term; `weight` is a factor of the controller's."""

    type: str = option("deletion", "component")
    target: float | None = option(
        0.5, "share of source positions to delete; null: the weight stays as it is", at_least=0, at_most=1
    )
    proportional: float = option(0.5, "weight for a lasting difference of 1", at_least=0, needs="target")
    integral: float = option(1e-5, "weight for a difference of 1 in one update, for good", at_least=0, needs="target")
    memory: float = option(0.9, "factor of the moving average", at_least=0, below=1, needs="target")


class Deletion(Term):
    """The mean distance of the gates from deletion."""

    Config = DeletionConfig
    only_in_training = True

    def __init__(self, config: DeletionConfig):
        super().__init__(config)
        self.average = self.sum = 0.0

    @property
    def weight(self) -> float:
        """As in Term."""
        if self.config.target is None:
            return self.config.weight
        controlled = self.config.proportional * self.average + self.config.integral * self.sum
        return self.config.weight * max(0.0, controlled)

    def check(self, model: EncoderDecoder) -> None:
        """Check that the encoder has a deletion gate. Raises UserError."""
        if model.encoder is None or not hasattr(model.encoder, "gate_weight"):
            raise UserError(f"criterion.terms: {self.name} needs model.encoder=deletion")

    def count(self, batch: Batch) -> int:
        """Number of source tokens."""
        return batch.counts.source

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {self.name: COUNT, "deleted": COUNT}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        gates, real = (run.memory.auxiliary[name] for name in ("gates", "gated"))
        strength = run.model.encoder.config.strength
        scale = self.count(run.batch) / real.sum()  # 1, unless a front-end makes fewer states of the tokens
        deleted = (real & (gates < -strength / 2)).sum() * scale
        return Value(((gates + strength) * real).sum() * scale, {"deleted": deleted})

    def updated(self, update: int, values: dict[str, float]) -> None:
        """Update the controller."""
        if self.config.target is not None:
            difference = self.config.target - values["deleted"]
            self.average = self.config.memory * self.average + (1 - self.config.memory) * difference
            self.sum += difference

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The state of the controller."""
        return {name: torch.tensor(getattr(self, name), dtype=torch.float64) for name in ("average", "sum")}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Restore the controller."""
        self.average, self.sum = float(state["average"]), float(state["sum"])
