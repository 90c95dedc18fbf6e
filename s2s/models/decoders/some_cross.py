"""Cross-attention in some decoder layers only, as in the captioner of CoCa.

Paper: Yu et al., "CoCa: Contrastive Captioners are Image-Text Foundation Models", TMLR 2022,
https://arxiv.org/abs/2205.01917.

Decoder layers outside `cross_layers` have only self-attention and a feed-forward block, so that layers below the first
of `cross_layers` read the text and not the source. This saves weights, and the cross-attention of these layers in each
step. The compiled step supports such layers. A bridge makes one memory for each layer with cross-attention.

Use: `model.decoder=some_cross model.decoder.cross_layers=[4,5,6]`

Left out: attentional pooling and the encoder of images; the contrastive term is `criterion=contrastive`. The state of a
search still has room for keys and values of the source in every layer.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.stack import DecoderConfig
from s2s.nn.layers import Layer


@dataclasses.dataclass
class SomeCrossConfig(DecoderConfig):
    """Options of the decoder."""

    cross_layers: list[int] = option(
        [], "layers, from 1, that attend to the source; empty: the second half", at_least=1, at_most=1000
    )
    type: str = option("some_cross", "component")


def chosen(config: SomeCrossConfig) -> list[int]:
    """Numbers of the layers with cross-attention, from 1, ascending. Raises UserError: a layer that does not exist."""
    if config.cross_layers and max(config.cross_layers) > config.layers:
        raise UserError(f"model.decoder.cross_layers={config.cross_layers}: there are {config.layers} layers; "
                        f"name some of 1 to {config.layers}")  # fmt: skip
    return sorted(set(config.cross_layers)) or list(range(config.layers // 2 + 1, config.layers + 1))


class SomeCrossDecoder(TransformerDecoder):
    """A decoder in which only some layers attend to the memory.

    Args:
        config, shared, embedding, memory_width, heads: As in TransformerDecoder.

    Raises:
        UserError: a layer that does not exist.
    """

    Config = SomeCrossConfig
    segmented = True
    steps_for = TransformerDecoder  # whose step has layers without attention to the memory

    @staticmethod
    def attending(config: SomeCrossConfig) -> int:
        """As in TransformerDecoder."""
        return len(chosen(config))

    def _layers(self, config: SomeCrossConfig, options: dict[str, Any]) -> nn.ModuleList:
        """As in TransformerDecoder."""
        attend, without = chosen(config), {**options, "memory_width": None}
        numbers = range(1, config.layers + 1)
        return nn.ModuleList(Layer(**(options if number in attend else without)) for number in numbers)

    def decode(self, seen: list[Tensor], *args) -> tuple[Tensor, dict[int, Tensor]]:
        """As in TransformerDecoder; seen: the memory of each layer with cross-attention."""
        return super().decode(self._spread(seen), *args)

    def _spread(self, seen: list[Tensor]) -> list[Tensor]:
        """The memory of each layer; a layer without cross-attention has one that it does not read."""
        memories = iter(seen)
        return [next(memories) if layer.attends else seen[0] for layer in self.layers]

    def cross_attention(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, layer: int) -> Tensor:
        """As in TransformerDecoder. Raises UserError: the layer has no cross-attention."""
        if not self.layers[layer].attends:
            raise UserError(f"decode.alignment_layer={layer + 1}: does not attend to the source; "
                            f"model.decoder.cross_layers={chosen(self.config)} do")  # fmt: skip
        return super().cross_attention(self._spread(seen), seen_mask, decoder_input, layer)

    def _start(self, seen: list[Tensor], seen_mask: Tensor) -> tuple[Tensor, Tensor]:
        """As in TransformerDecoder."""
        spread = zip(self.layers, self._spread(seen), strict=True)
        projected = [layer.cross.project(memory) if layer.attends else None for layer, memory in spread]
        zeros = torch.zeros_like(next(tensor for tensor in projected if tensor is not None))
        return torch.stack([zeros if tensor is None else tensor for tensor in projected]), seen_mask
