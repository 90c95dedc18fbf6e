"""R-Drop: two passes with different dropout masks should predict the same distributions (Liang et al. 2021).

The term is the mean of KL(p || q) and KL(q || p), p and q being the distributions of the two passes at a target
position. The other terms are averaged over the passes. The paper sums over the passes instead, so its loss with alpha
is twice this loss with weight alpha / 2.
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
    weight: float = option(
        2.5, "weight of the divergence of two passes in the loss; half of the paper's alpha", at_least=0
    )


class RDrop(PositionTerm):
    """The divergence of two passes."""

    Config = RDropConfig
    only_in_training = True
    passes = 2

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has a decoder and dropout. Raises UserError."""
        super().check(model)
        rates = list(_rates(values(model.config)))
        if rates and not any(rates):
            raise UserError("criterion.terms: r_drop requires dropout, or both passes are the same; set model.dropout")

    def chunked(self, passes: Sequence[Run], weight: float) -> "Divergence":
        """As in PositionTerm."""
        return Divergence(weight)


class Divergence:
    """A `Chunked` loss: the mean of the two divergences between two passes.

    Args:
        weight: Weight of the term.
    """

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """As in Chunked; logits: [n, 2, V]."""
        log = logits.log_softmax(2)
        p = log.exp()
        # d = log p - log q of each pass; the KL divergence of a pass from the other one is the mean of its d.
        d = log - log.flip(1)
        divergence = (p * d).sum(2, keepdim=True)
        gradient = p * d.sub_(divergence) + (p - p.flip(1))
        return divergence.sum() / 2, gradient.mul_(self.weight / 2)


def _rates(config: dict) -> Iterator[float]:
    """The dropout probabilities in the options of a model."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _rates(value)
        elif "dropout" in key:
            yield value
