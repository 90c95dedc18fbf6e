"""Label-smoothed cross-entropy of the target tokens (Szegedy et al. 2016), in nats.

(1 - e) * -log p(target) + e * mean over the vocabulary of -log p, summed over all positions that are not padding. It
equals `torch.nn.functional.cross_entropy(..., label_smoothing=e, reduction="sum")`. The metric `nll` is without
smoothing.
"""

import dataclasses

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.positions import Rows, losses
from s2s.criterions.term import COUNT, PositionTerm, TermConfig, Value
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class CrossEntropyConfig(TermConfig):
    """Options of the cross-entropy."""

    type: str = option("cross_entropy", "component")
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary", at_least=0, below=1
    )


class CrossEntropy(PositionTerm):
    """The cross-entropy. The first one among the terms shares its logits with the other terms of target positions."""

    Config = CrossEntropyConfig
    trains = ("decoder",)

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {"nll": COUNT, "correct": COUNT}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        rows = Rows([run], [run.output])
        loss, nll, correct = losses(rows, run.target, self.config.label_smoothing, 1.0)
        return Value(loss, {"nll": nll, "correct": correct})
