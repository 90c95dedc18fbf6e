"""Auxiliary heads: the states of further decoder layers predict the target too (DeCRED).

The mean over `model.auxiliary_heads` of the label-smoothed cross-entropy of each, by the output of the model. In a
validation the heads are reported, and do not count.
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
    weight: float = option(0.3, "of the mean over the heads", at_least=0)
    label_smoothing: float = option(0.1, "as of the cross-entropy", at_least=0, below=1)


class Auxiliary(Term):
    """The mean cross-entropy of the heads."""

    Config = AuxiliaryConfig
    trains = ("auxiliary_heads",)
    only_in_training = True

    def check(self, model: EncoderDecoder) -> None:
        """It needs heads."""
        if not model.auxiliary_heads:
            raise UserError("criterion.terms: auxiliary needs model.auxiliary_heads")

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As of Term."""
        return {f"auxiliary_{number}": COUNT for number in model.auxiliary_heads}

    def __call__(self, run: Run) -> Value:
        """As of Term."""
        values, metrics = [], {}
        for number in run.output.heads:
            rows = Rows([run], [run.output.head(number)])
            value, metrics[f"auxiliary_{number}"], _ = losses(rows, run.target, self.config.label_smoothing, 1.0)
            values.append(value)
        return Value(sum(values) / len(values), metrics)
