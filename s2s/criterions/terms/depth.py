"""The term of I3D's gates: the share of computed blocks.

Paper: Peng, Lee and Watanabe, "I3D: Transformer Architectures with Input-Dependent Dynamic Depth for Speech
Recognition", ICASSP 2023, https://arxiv.org/abs/2303.07624.

The term is the mean, over examples and over the 2 N gates of `model.encoder=dynamic_depth`, of the gates as sampled in
training. Validation reports the share of blocks that decoding computes.

Use: `model.encoder=dynamic_depth criterion=depth criterion.depth.weight=0.1`

Left out: nothing. Uncertain: the weight of the paper, whose loss is of another scale.
"""

import dataclasses

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.term import COUNT, Term, TermConfig, Value
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class DepthConfig(TermConfig):
    """Options of the term."""

    type: str = option("depth", "component")
    weight: float = option(0.1, "of the share of blocks that is computed", at_least=0)


class Depth(Term):
    """The share of computed blocks."""

    Config = DepthConfig
    only_in_training = True

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has one encoder, with gates. Raises UserError."""
        if model.encoder is None or not hasattr(model.encoder, "gates"):
            raise UserError(f"criterion.terms: {self.name} needs model.encoder=dynamic_depth")
        if getattr(model.bridge, "several_sources", False):
            raise UserError(f"criterion.terms: {self.name} counts the gates of one encoder, and the task has several "
                            "sources")  # fmt: skip

    def count(self, batch: Batch) -> int:
        """Number of examples."""
        return batch.counts.sentences

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """As in Term."""
        return {self.name: COUNT}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        return Value(run.memory.auxiliary["computed"].mean((1, 2)).sum())
