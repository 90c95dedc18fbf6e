"""Auxiliary heads: the states of further decoder layers predict the target, too (DeCRED).

The term is the mean over `model.auxiliary_heads` of their label-smoothed cross-entropy; all heads share the output
layer of the model. In validation the heads are reported, but do not add to the loss.
"""

import dataclasses

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.positions import Rows, losses
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class AuxiliaryConfig(TermConfig):
    """Options of the auxiliary heads."""

    type: str = option("auxiliary", "component")
    weight: float = option(0.3, "weight of the mean over the heads in the loss", at_least=0)
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary", at_least=0, below=1
    )


class Auxiliary(Term):
    """The mean cross-entropy of the heads."""

    Config = AuxiliaryConfig
    trains = ("auxiliary_heads",)
    only_in_training = True

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has auxiliary heads. Raises UserError."""
        if not model.auxiliary_heads:
            raise UserError("criterion.terms: auxiliary requires model.auxiliary_heads")

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {f"auxiliary_{number}": COUNT for number in model.auxiliary_heads}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        values, metrics = [], {}
        for number in run.output.heads:
            rows = Rows([run], [run.output.head(number)])
            value, metrics[f"auxiliary_{number}"], _ = losses(rows, run.target, self.config.label_smoothing, 1.0)
            values.append(value)
        return Value(sum(values) / len(values), metrics)
