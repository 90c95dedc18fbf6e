"""An encoder layer without attention: the mean of neighbours takes its place."""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.nn.dropout import dropout as drop
from s2s.nn.feedforward import FeedForward


@dataclasses.dataclass
class AverageConfig:
    """Options of the layer, beside those of its stack."""

    type: str = option("average", "component")
    reach: int = option(1, "neighbours at each side", at_least=1, at_most=1000)


class AverageLayer(nn.Module):
    """x + the mean of the real positions up to `reach` away, then a feed-forward block; pre-norm."""

    Config = AverageConfig
    norms = ("pre",)
    convolves = False
    unpads = False  # it needs to know its neighbours
    segmented = True  # the mask keeps the examples of a packed row apart

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, reach: int, activation: str,
                 rotary: bool, dropout: float, attention_dropout: float, activation_dropout: float):  # fmt: skip
        super().__init__()
        self.reach, self.dropout = reach, dropout
        self.norm, self.feedforward_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feedforward = FeedForward(width, ffn_width, activation, activation_dropout)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """x: [B, S, D]; mask: bool [B, 1, 1 or S, S], true at the keys of each query; real: bool [B, S, 1]."""
        places = torch.arange(x.size(1), device=x.device)
        near = mask[:, 0] & ((places - places[:, None]).abs() <= self.reach)
        weights = near / near.sum(-1, keepdim=True).clamp(min=1)
        x = x + drop(weights @ self.norm(x), self.dropout, self.training)
        return x + drop(self.feedforward(self.feedforward_norm(x)), self.dropout, self.training)
