"""SurfaceFusion: the output layer reads the source embeddings, too.

Paper: Liu et al., "Understanding and Improving Encoder Layer Fusion in Sequence-to-Sequence Learning", ICLR 2021,
https://openreview.net/forum?id=n1HD8M6WGn.

Attention with queries of the decoder's states [B, T, D] and keys of the encoder's top states [B, S, D] makes r [B, T,
D], a weighted sum of the embedded source that the encoder begins with. Both sides of this attention are detached, so
that it learns where to look and changes neither encoder nor decoder. The output matrix [V, D] makes target logits of
the states and source logits of r. `fusion=hard` is g * log softmax(target logits) + (1 - g) * log softmax(source
logits), with a constant g, or with `gate=learned` the sigmoid of a linear map of states and r; `fusion=soft` is target
logits + log softmax(source logits / temperature).

Use: `model.output=surface_fusion model.output.fusion=hard model.output.share=0.8`

Left out: fusion of all encoder layers, which is `model.bridge=linear` and `model.bridge=groups`. Encoder and decoder
have one width. Losses and searches normalise what the output gives; the paper leaves the hard kind as it is. Uncertain:
of which decoder layer the query is; here it is the last.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Memory


@dataclasses.dataclass
class SurfaceFusionConfig:
    """Options of the output."""

    type: str = option("surface_fusion", "component")
    fusion: str = option("hard", "how both distributions are joined", ("hard", "soft"))
    gate: str = option("constant", "hard: share of the target distribution", ("constant", "learned"))
    share: float = option(0.8, "hard, constant: share of the target distribution", at_least=0, at_most=1)
    temperature: float = option(1.0, "soft: of the source distribution", at_least=0.01, at_most=1000)


class SurfaceFusion(nn.Module):
    """Logits by the decoder's states and by the source embeddings that they look at.

    Args:
        config: Its options.
        width: D.
        size: V.
    """

    Config = SurfaceFusionConfig

    def __init__(self, config: SurfaceFusionConfig, width: int, size: int):
        super().__init__()
        self.config, self.width = config, width
        self.weight = nn.Parameter(torch.empty(size, width))
        nn.init.xavier_uniform_(self.weight)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        learned = config.fusion == "hard" and config.gate == "learned"
        self.gate = nn.Linear(2 * width, 1) if learned else None

    def keep(self, memory: Memory) -> tuple[Tensor, Tensor]:
        """What is needed of a source, keys and values, [B, S, D] each. Raises UserError."""
        embedded = memory.auxiliary.get("embedded")
        if embedded is None or embedded.shape != memory.top.shape or embedded.size(2) != self.width:
            raise UserError("model.output=surface_fusion: needs one source, an encoder that keeps its length, and "
                            "encoder and decoder of one width")  # fmt: skip
        return self.key(memory.top.detach()), embedded

    def context(self, states: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor]:
        """What is read of the source: states [B, T, D], mask: bool [B, 1, 1 or T, S]. Returns [B, T, D]."""
        scores = self.query(states.detach()) @ keys.transpose(1, 2) / self.width**0.5
        weights = scores.float().masked_fill(~mask[:, 0], float("-inf")).softmax(-1)
        return (weights.to(values.dtype) @ values,)

    def forward(self, states: Tensor, read: Tensor) -> Tensor:
        """States and what was read of the source, [..., D] each, to logits [..., V]."""
        target, source = (nn.functional.linear(x.to(self.weight.dtype), self.weight) for x in (states, read))
        if self.config.fusion == "soft":
            return target + (source / self.config.temperature).log_softmax(-1)
        share = self.config.share if self.gate is None else self.gate(torch.cat([states, read], -1)).sigmoid()
        return share * target.log_softmax(-1) + (1 - share) * source.log_softmax(-1)
