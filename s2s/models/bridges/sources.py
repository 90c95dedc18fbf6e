"""Numbered sources: the memory of several sources, in which each position has the number of its source.

Paper: Libovický et al., "Input Combination Strategies for Multi-Source Transformer Decoder", WMT 2018,
https://arxiv.org/abs/1811.04716.

The bridge's side of `model.decoder=multi_source`. As in `model.bridge=flat`, the states of all sources of a sentence
stand one after the other without padding, [B, S, D]. The memory that a decoder layer sees has one more channel, [B, S,
D + 1], the number of the source that a position belongs to, from 0. The decoder makes the mask of each source of it.

Use: task=multi_source model.bridge=sources model.decoder=multi_source

Left out: nothing.
"""

import dataclasses

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.models.bridges.flat import FlatBridge, places_of
from s2s.models.contract import Memory


@dataclasses.dataclass
class SourcesConfig:
    """Options of the bridge."""

    type: str = option("sources", "component")


class SourcesBridge(FlatBridge):
    """Concatenates the top states of several encoders and their numbers. The arguments are those of TopBridge."""

    Config = SourcesConfig
    numbers_sources = True

    def __init__(self, config: SourcesConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__(config, width, encoder_layers, decoder_layers)
        self.width = width + 1

    def join(self, memories: list[Memory]) -> Memory:
        """As in FlatBridge; the states below the top are the numbers, [B, S, 1]."""
        joined = super().join(memories)
        places, sizes = places_of(memories), torch.tensor([memory.top.size(1) for memory in memories])
        ends = sizes.cumsum(0).to(places.device)
        numbers = torch.bucketize(places.contiguous(), ends, right=True)[:, :, None].to(joined.top.dtype)
        joined.states = [numbers, joined.top]
        return joined

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """As in TopBridge, [B, S, D + 1]."""
        numbers, top = memory.states
        return [torch.cat([top, numbers.to(top.dtype)], -1)] * layers
