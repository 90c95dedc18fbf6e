"""MatFormer, the decoder's side: the layers of the decoder have nested feed-forward blocks.

Paper: Devvrit et al., "MatFormer: Nested Transformer for Elastic Inference", NeurIPS 2024,
https://arxiv.org/abs/2310.07707.

The Transformer's decoder with the layers of `model.encoder.layer=nested`. A language model has only this side.

Use: `model.encoder.layer=nested model.decoder=nested`

Left out: see `model.encoder.layer=nested`, the encoder's side. Uncertain: nothing.
"""

import dataclasses
from typing import Any

from torch import nn

from s2s.config.schema import option
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.stack import DecoderConfig
from s2s.nn.nested import WIDTHS, NestedLayer


@dataclasses.dataclass
class NestedDecoderConfig(DecoderConfig):
    """Options of the decoder."""

    type: str = option("nested", "component")
    widths: list[float] = option(
        WIDTHS, "widths that are trained, as fractions of ffn_width; 1 is one of them", at_least=0, at_most=1
    )


class NestedDecoder(TransformerDecoder):
    """A Transformer decoder whose layers have nested feed-forward blocks.

    Args:
        config, shared, embedding, memory_width, heads: As in TransformerDecoder.
    """

    Config = NestedDecoderConfig
    stands_for = TransformerDecoder
    segmented = True

    def _layers(self, config: NestedDecoderConfig, options: dict[str, Any]) -> nn.ModuleList:
        """As in TransformerDecoder."""
        return nn.ModuleList(NestedLayer(**options, widths=config.widths) for _ in range(config.layers))
