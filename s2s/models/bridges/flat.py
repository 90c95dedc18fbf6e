"""Flat multi-source attention: the memories of several sources one after the other, in one softmax.

Paper: Libovický et al., "Input Combination Strategies for Multi-Source Transformer Decoder", WMT 2018,
https://arxiv.org/abs/1811.04716.

Each source has an encoder; `model.share_sources` makes them share one. The memories of all sources of a sentence are
concatenated without the padding between them: [B, S1, D] and [B, S2, D] become [B, S, D], where S is the largest number
of real positions in a row. Each decoder layer attends to the result as to a single source, so the decoder is unchanged
and keeps its kernels. Packed rows hold the examples of all sources in the same order.

Use: task=multi_source model.bridge=flat

Left out: the paper's serial, parallel and hierarchical strategies, which are those of `model.decoder=multi_source`.
"""

import dataclasses

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.models.bridges.top import TopBridge
from s2s.models.contract import Memory
from s2s.nn.attention import length_mask


@dataclasses.dataclass
class FlatConfig:
    """Options of the bridge."""

    type: str = option("flat", "component")


class FlatBridge(TopBridge):
    """Concatenates the top states of several encoders. The arguments are those of TopBridge."""

    Config = FlatConfig
    several_sources = True

    def join(self, memories: list[Memory]) -> Memory:
        """Join the memories of all sources into one memory."""
        places, lengths = places_of(memories), sum(memory.lengths for memory in memories)
        states = torch.cat([memory.top for memory in memories], 1)
        return Memory(
            [states.gather(1, places[:, :, None].expand(-1, -1, states.size(2)))],
            lengths,
            length_mask(lengths, places.size(1)),
            _segments(memories, places),
            _alone(memories),
        )


def places_of(memories: list[Memory]) -> Tensor:
    """The place of each position of the joined memory in the concatenated ones, padding last; int64 [B, S]."""
    real = torch.cat([memory.mask[:, 0, 0] for memory in memories], 1)
    return real.int().argsort(dim=1, descending=True, stable=True)[:, : int(real.sum(1).max())]


def _alone(memories: list[Memory]) -> dict[str, Tensor]:
    """Auxiliary outputs that only one encoder has. An output of several encoders is left out, because no part may take
    it for the output of all."""
    names = [name for memory in memories for name in memory.auxiliary]
    return {name: value for memory in memories for name, value in memory.auxiliary.items() if names.count(name) == 1}


def _segments(memories: list[Memory], places: Tensor) -> Tensor | None:
    """Which example of its row each position belongs to, where rows are packed; else None."""
    segments = [memory.segments for memory in memories if memory.segments is not None]
    return torch.cat(segments, 1).gather(1, places) if segments else None
