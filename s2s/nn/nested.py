"""MatFormer: feed-forward blocks that hold smaller ones, so that one training gives models of several sizes.

Paper: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference", NeurIPS 2024,
https://arxiv.org/abs/2310.07707.

A feed-forward block of inner width F holds smaller blocks: that of m inner states has the first m rows of the first
matrix, [F, D], and the first m columns of the second one, [D, F]. In each update one of `widths`, a fraction of F, is
drawn from the seed and the number of the update; it is the same in all layers of encoder and decoder. Validation and
decoding use the whole model. `decode.subnet=0.25` decodes with a quarter of F, and `decode.subnet=0.25,1,...` with a
width for each layer, those of the encoder first (Mix'n'Match). A slice has plain blocks, and kernels as any other
model. Attention is not sliced: with `decode.speculative=self` the slice `decode.draft_subnet` guesses the next tokens,
and the whole model checks them. Both have one cache, or with kernels one each, and the result is that of greedy search.

Use: `model=matformer_tiny`, or `model.encoder.layer=nested model.decoder=nested`; `decode.subnet=0.25`;
`decode.speculative=self decode.beam_size=1`

Left out: the sum of the losses of all widths in an update, and widths drawn with unequal probabilities. Uncertain:
nothing of what is here.
"""

import dataclasses

import numpy as np
from torch import nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.nn.elastic import narrow, sliceable
from s2s.nn.layers import Layer, LayerConfig

WIDTHS = [0.125, 0.25, 0.5, 1.0]


@dataclasses.dataclass
class NestedConfig(LayerConfig):
    """Options of the layer, beside those of its stack."""

    type: str = option("nested", "component")
    widths: list[float] = option(
        WIDTHS, "widths that are trained, as fractions of ffn_width; 1 is one of them", at_least=0, at_most=1
    )


class NestedLayer(Layer):
    """A Transformer layer with a nested feed-forward block.

    Args:
        args, options: As in Layer.
        widths: Fractions of the inner width that are trained.

    Attributes:
        sizes: Inner width of each fraction.

    Raises:
        UserError: the whole width is not among `widths`, or a fraction has no inner state.
    """

    Config = NestedConfig
    stands_for = Layer

    def __init__(self, *args, widths: list[float], **options):
        super().__init__(*args, **options)
        sliceable(self.feedforward, "inner", "outer")
        whole = self.feedforward.outer.in_features
        self.sizes = {width: round(width * whole) for width in sorted(widths)}
        if 1 not in self.sizes:
            raise UserError(f"widths={widths}: must have 1, the whole ffn_width")
        if not all(self.sizes.values()):
            raise UserError(f"widths={widths}: {min(widths):g} of ffn_width={whole} is nothing")

    def begin_update(self, seed: int) -> None:
        """Choose the width of an update; `seed` belongs to the update. Layers with the same widths choose alike."""
        self.narrow(list(self.sizes)[np.random.default_rng(seed).integers(len(self.sizes))])

    def narrow(self, width: float) -> None:
        """Use a fraction of the inner width. Raises UserError: it was not trained."""
        if width not in self.sizes:
            widths = ", ".join(f"{each:g}" for each in self.sizes)
            raise UserError(f"the model has no width {width:g}; it was trained with {widths}")
        narrow(self.feedforward, self.sizes[width])


def nested_layers(model: nn.Module) -> list[NestedLayer]:
    """The nested layers of a model: of each encoder, then of the decoder."""
    return [layer for stack in model.stacks() for layer in stack if isinstance(layer, NestedLayer)]
