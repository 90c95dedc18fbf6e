"""Intermediate CTC: the mean of CTC after the lower encoder layers `model.encoder.ctc_layers` (Lee and Watanabe 2021).
With early exits, these are the losses of the exits.
"""

import dataclasses

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.criterions.terms.ctc import ctc
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class IntermediateCTCConfig(TermConfig):
    """Options of intermediate CTC."""

    type: str = option("intermediate_ctc", "component")
    weight: float = option(0.5, "weight of the mean over the layers in the loss", at_least=0)


class IntermediateCTC(Term):
    """The mean of CTC after `model.encoder.ctc_layers`."""

    Config = IntermediateCTCConfig
    trains = ("ctc_layers",)

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has lower layers with CTC. Raises UserError."""
        if not model.exits:
            raise UserError("criterion.terms: intermediate_ctc requires model.encoder.ctc_layers")

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {f"ctc_{number}": COUNT for number in model.exits}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        values = [ctc(run, which) for which in range(len(run.memory.states) - 1)]
        numbered = zip(run.model.exits, values, strict=True)
        return Value(sum(values) / len(values), {f"ctc_{number}": value.detach() for number, value in numbered})
