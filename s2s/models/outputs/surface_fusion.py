"""SurfaceFusion: the output layer also reads the source embeddings.

Paper: Liu et al., "Understanding and Improving Encoder Layer Fusion in Sequence-to-Sequence Learning", ICLR 2021,
https://openreview.net/forum?id=n1HD8M6WGn.

An attention has the decoder states [B, T, D] as queries, the top encoder states [B, S, D] as keys, and the embedded
source as values. Its result is r [B, T, D]. Queries and keys are detached, so that the attention trains its own weights
and changes neither encoder nor decoder. The output matrix [V, D] maps the states to target logits and r to source
logits. `fusion=hard` is g * log softmax(target logits) + (1 - g) * log softmax(source logits); g is a constant, or with
`gate=learned` the sigmoid of a linear map of the states and r. `fusion=soft` is target logits + log softmax(source
logits / temperature).

Use: `model.output=surface_fusion model.output.fusion=hard model.output.share=0.8`

Left out: fusion of all encoder layers, which is `model.bridge=linear` and `model.bridge=groups`. Encoder and decoder
must have the same width. Losses and searches normalise the output; the paper does not normalise hard fusion. Uncertain:
which decoder layer gives the query; here it is the last.
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
    """Logits from the decoder states and from the attended source embeddings.

    Args:
        config: The options.
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
        """The tensors of a source: keys and values, [B, S, D] each. Raises UserError."""
        embedded = memory.auxiliary.get("embedded")
        if embedded is None or embedded.shape != memory.top.shape or embedded.size(2) != self.width:
            raise UserError("model.output=surface_fusion: needs one source, an encoder that keeps its length, and "
                            "encoder and decoder of one width")  # fmt: skip
        return self.key(memory.top.detach()), embedded

    def context(self, states: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor]:
        """The attended source r [B, T, D]; states: [B, T, D]; mask: bool [B, 1, 1 or T, S]."""
        scores = self.query(states.detach()) @ keys.transpose(1, 2) / self.width**0.5
        weights = scores.float().masked_fill(~mask[:, 0], float("-inf")).softmax(-1)
        return (weights.to(values.dtype) @ values,)

    def forward(self, states: Tensor, read: Tensor) -> Tensor:
        """Logits [..., V] of states [..., D]; read: r, [..., D]."""
        target, source = (nn.functional.linear(x.to(self.weight.dtype), self.weight) for x in (states, read))
        if self.config.fusion == "soft":
            return target + (source / self.config.temperature).log_softmax(-1)
        share = self.config.share if self.gate is None else self.gate(torch.cat([states, read], -1)).sigmoid()
        return share * target.log_softmax(-1) + (1 - share) * source.log_softmax(-1)
