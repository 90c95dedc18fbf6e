"""HAT, the decoder's side: layers of which each update samples a part, and the encoder layers that they see.

Paper: Wang et al., "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing", ACL 2020,
https://arxiv.org/abs/2005.14187.

A Transformer decoder whose sub-networks have the first n layers, and of each layer the first inner states and heads.
Each layer attends to the last encoder layers, as many as are sampled of `memories`.

Use: `model.decoder=super model.decoder.ffn_widths=[512,1024,2048] model.decoder.memories=[1,2,3]
model.bridge=last model.bridge.layers=3`

Left out: see s2s/nn/super_stack.py. Uncertain: nothing.
"""

import dataclasses
from typing import Any

from torch import nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.stack import DecoderConfig
from s2s.nn.embedding import Embedding
from s2s.nn.super_stack import SuperConfig, SuperStack, super_layers


@dataclasses.dataclass
class SuperDecoderConfig(SuperConfig, DecoderConfig):
    """Options of the decoder."""

    cross_head_counts: list[int] = option(
        [], "numbers of heads of cross-attention to sample from; empty: heads", at_least=1, at_most=1024
    )
    memories: list[int] = option(
        [], "numbers of encoder layers that a layer sees, to sample from; empty: all of the bridge", at_least=1,
        at_most=1000,
    )  # fmt: skip
    type: str = option("super", "component")


class SuperDecoder(SuperStack, TransformerDecoder):
    """A Transformer decoder that samples sub-networks.

    Args:
        config, shared, embedding, memory_width, heads: As in TransformerDecoder.

    Attributes:
        copies: Number of encoder layers that the bridge must show; None: any.

    Raises:
        UserError: sizes that there are not, or auxiliary heads.
    """

    Config = SuperDecoderConfig
    segmented = True
    side, lists = "decoder", ("ffn_widths", "head_counts", "cross_head_counts", "memories")

    def __init__(self, config: SuperDecoderConfig, shared: Shared, embedding: Embedding, memory_width: int | None,
                 heads: list[int] = ()):  # fmt: skip
        if heads:
            raise UserError(f"model.auxiliary_heads={list(heads)}: model.decoder=super samples its depth")
        if memory_width is None and (config.memories or config.cross_head_counts):
            raise UserError("model.decoder.memories and cross_head_counts: the model has no memory to attend to")
        shared.refuse("model.decoder=super", "relative_bias", "bias", "scale_attention")
        if config.head_width is not None:
            raise UserError(f"model.decoder.head_width={config.head_width}: model.decoder=super does not have it")
        self.copies = max(config.memories, default=None)
        super().__init__(config, shared, embedding, memory_width)
        self._begin(config)

    def _layers(self, config: SuperDecoderConfig, options: dict[str, Any]) -> nn.ModuleList:
        """As in TransformerDecoder."""
        return super_layers(config, {**options, "copies": self.copies or 1})

    @property
    def attention_shape(self) -> tuple[int, int]:
        """As in TransformerDecoder; the heads that every layer has."""
        return len(self.layers), min(layer.cross.heads for layer in self.layers if layer.attends)
