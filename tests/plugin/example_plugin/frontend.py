"""A front-end that makes one state of two tokens."""

import dataclasses

import torch
from torch import nn

from s2s.config.schema import option
from s2s.data.batch import Source
from s2s.data.spec import TokenSource
from s2s.models.contract import Shared, States
from s2s.nn.embedding import Embedding


@dataclasses.dataclass
class HalvingConfig:
    """Options of the front-end."""

    type: str = option("halving", "component")
    mix: float = option(
        0.5, "share of the linear map in a pair; the sum of its tokens has the rest", at_least=0, at_most=1
    )


class HalvingFrontend(nn.Module):
    """Pairs of embedded tokens through a linear map: [B, S] -> [B, ceil(S / 2), D]."""

    Config = HalvingConfig
    reads = TokenSource
    stride = 2  # tokens that become a state, where it is always the same number

    def __init__(self, config: HalvingConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__()
        self.tokens = nn.Embedding(source.size, width)  # the model may share it with the target
        self.embedding = Embedding(self.tokens, shared.positions, shared.max_positions, shared.embedding_dropout)
        self.mix, self.pair = config.mix, nn.Linear(2 * width, width)

    def most(self, length: int) -> int:
        """States of a source of so many tokens."""
        return (length + 1) // 2

    def forward(self, source: Source) -> States:
        """source: ids [B, S]."""
        x = self.embedding(source.values)
        real = torch.arange(x.size(1), device=x.device) < source.lengths[:, None]
        x = nn.functional.pad(x * real[:, :, None], (0, 0, 0, x.size(1) % 2))  # padding counts nothing
        pairs = x.unflatten(1, (-1, 2))
        states = self.mix * self.pair(pairs.flatten(2)) + (1 - self.mix) * pairs.sum(2)
        return States(states, (source.lengths + 1) // 2)

    def flops(self, lengths: torch.Tensor) -> int:
        """Operations of matrix products over sources of these lengths."""
        return 2 * int(((lengths + 1) // 2).sum()) * self.pair.weight.numel()
