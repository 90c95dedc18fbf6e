"""Convolutional decoder: light, dynamic or gated convolutions in place of self-attention.

Paper: Wu et al., "Pay Less Attention with Lightweight and Dynamic Convolutions", ICLR 2019,
https://arxiv.org/abs/1901.10430; Gehring et al., "Convolutional Sequence to Sequence Learning", ICML 2017,
https://arxiv.org/abs/1705.03122.

The layers are the convolutional ones of `model.encoder.layer`, but a window of k positions ends at its own position,
and cross-attention is added. The state between steps has a fixed size for each row and layer, [k - 1, D], in place of
keys and values that grow with the hypothesis.

Use: model.decoder=convolutional model.decoder.layer=dynamic_convolution model.decoder.layer.kernel=7

Left out: see the layers. Decoding uses PyTorch operators, because the compiled step is that of the Transformer.
"""

import dataclasses
from typing import Any

from torch import Tensor, nn

from s2s import registry
from s2s.config.schema import group, option
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.stack import DecoderConfig
from s2s.nn.convolving import ConvolvingLayer, WindowState


@dataclasses.dataclass
class ConvolutionalConfig(DecoderConfig):
    """Options of the decoder."""

    type: str = option("convolutional", "component")
    layer: Any = group("layer", "dynamic_convolution", "kind of its layers: a convolution")


class ConvolutionalDecoder(TransformerDecoder):
    """A decoder of convolutional layers, whose windows end at their own position.

    Args:
        config, shared, embedding, memory_width, heads: As in TransformerDecoder.

    Raises:
        UserError: layers that are not such convolutions.
    """

    Config = ConvolutionalConfig
    State = WindowState
    step_block = None  # type: ignore[assignment]  # to drop positions, a state would have to hold more of them

    def __init__(self, config: ConvolutionalConfig, shared: Shared, *args):
        shared.refuse("model.decoder=convolutional", "relative_bias", "bias", "scale_attention")
        super().__init__(config, shared, *args)

    def _layers(self, config: ConvolutionalConfig, options: dict[str, Any]) -> nn.ModuleList:
        kind = registry.find("layer", config.layer.type)
        if not (isinstance(kind, type) and issubclass(kind, ConvolvingLayer)):
            raise UserError(f"model.decoder.layer={config.layer.type}: is no convolution that ends with its position; "
                            "choose fconv, light_convolution or dynamic_convolution")  # fmt: skip
        own = {field.name: getattr(config.layer, field.name) for field in dataclasses.fields(config.layer)}
        own.pop("type")
        return nn.ModuleList(kind(**options, **own) for _ in range(config.layers))

    def start(self, seen: list[Tensor], seen_mask: Tensor, rows: int) -> WindowState:
        """As in TransformerDecoder."""
        state = super().start(seen, seen_mask, rows)
        state.size = self.config.layer.kernel - 1, self.width
        return state

    @property
    def attention_shape(self) -> tuple[int, int]:
        """As in TransformerDecoder."""
        return self.config.layers, self.layers[0].cross.heads
