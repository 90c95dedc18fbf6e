"""R-Drop: two passes of a model with other dropout should predict the same (Liang et al. 2021).

The mean of KL(p || q) and KL(q || p) of the two passes' distributions p, q at a target position. The other terms are
means over both passes. With half of the paper's alpha for a weight the loss is half of the paper's, which sums over the
passes.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from torch import Tensor

from s2s.config.schema import option, values
from s2s.criterions.forward import Run
from s2s.criterions.term import PositionTerm, TermConfig
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class RDropConfig(TermConfig):
    """Options of R-Drop."""

    type: str = option("r_drop", "component")
    weight: float = option(2.5, "of the divergence of two passes; half of the paper's alpha", at_least=0)


class RDrop(PositionTerm):
    """The divergence of two passes."""

    Config = RDropConfig
    only_in_training = True
    passes = 2

    def check(self, model: EncoderDecoder) -> None:
        """It needs a decoder and dropout."""
        super().check(model)
        rates = list(_rates(values(model.config)))
        if rates and not any(rates):
            raise UserError("criterion.terms: r_drop: two passes are the same without dropout; set model.dropout")

    def chunked(self, passes: Sequence[Run], weight: float) -> "Divergence":
        """As of PositionTerm."""
        return Divergence(weight)


class Divergence:
    """A `Chunked`: the mean of both divergences of two passes.

    Args:
        weight: Of the term.
    """

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """As of Chunked; logits: [n, 2, V]."""
        log = logits.log_softmax(2)
        p = log.exp()
        # d of a pass is its log-probabilities less the other one's; KL of a pass to the other one is the mean of its d.
        d = log - log.flip(1)
        divergence = (p * d).sum(2, keepdim=True)
        gradient = p * d.sub_(divergence) + (p - p.flip(1))
        return divergence.sum() / 2, gradient.mul_(self.weight / 2)


def _rates(config: dict) -> Iterator[float]:
    """Probabilities of dropout in a model's options."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _rates(value)
        elif "dropout" in key:
            yield value
