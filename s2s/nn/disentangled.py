"""Disentangled attention: content and distance have vectors of their own.

Paper: He, Liu, Gao and Chen, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", ICLR 2021,
https://arxiv.org/abs/2006.03654; in the encoder of Z-Code++: He et al., "Z-Code++: A Pre-trained Language Model
Optimized for Abstractive Summarization", ACL 2023, https://arxiv.org/abs/2208.09770.

A logit is (q_i k_j + q_i k'_n + q'_n k_j) / sqrt(3 d): content to content, content to position and position to
content. The distance n = i - j of query i and key j is limited to `distance`, so that there are 2 * distance vectors,
a table [2 * distance, D]. The maps of queries and keys also make the vectors q' and k' of the table. All else is as
in a Transformer layer over states [B, S, D]. The encoder needs no other positions, but those of `model.positions` are
added to embeddings as in other models, since the decoder needs them.

Use: model.encoder.layer=disentangled; model=zcode_tiny

Left out: one table for all layers and its norm (each layer has a table); logarithmic buckets of distances; maps of
their own for the table; dropout of the table; absolute positions before the output layer, which are for masked
tokens. Uncertain: which of these Z-Code++ has; the paper writes q' with the distance j - i, but the published code
has i - j in both, and so it is here.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.nn.attention import SelfAttention, attend, merged
from s2s.nn.layers import Layer, LayerConfig


@dataclasses.dataclass
class DisentangledConfig(LayerConfig):
    """Options of the layer, beside those of its stack."""

    type: str = option("disentangled", "component")
    distance: int = option(128, "greatest distance with a vector of its own", at_least=1, at_most=1_048_576)


class Distances(nn.Module):
    """The table of vectors of distances; count: 2 * distance; width: D."""

    def __init__(self, count: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))

    def first_weights(self) -> None:
        """Draw vectors with variance 1, as normalised states have."""
        nn.init.normal_(self.weight)


class DisentangledAttention(SelfAttention):
    """Self-attention with vectors of distances.

    Args:
        width, heads, kv_heads, dropout, options: As in SelfAttention.
        distance: Greatest distance with a vector of its own.
    """

    varlen = False

    def __init__(self, width: int, heads: int, kv_heads: int, dropout: float, distance: int, **options):
        super().__init__(width, heads, kv_heads, dropout, False, False, **options)
        self.distances = Distances(2 * distance, width)

    def attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """As in SelfAttention; mask: bool [B, 1, 1 or T, T], or None, where all see all."""
        q, k, v = self.split(qkv)
        place_q, place_k, _ = self.split(self.qkv(self.distances.weight)[None])  # [1, H or G, 2 * distance, d]
        group, T = self.heads // self.kv_heads, q.size(2)
        count, steps = len(self.distances.weight), torch.arange(T, device=q.device)
        index = (steps[:, None] - steps + count // 2).clamp(0, count - 1).expand(len(q), self.heads, T, T)
        to_place = (q @ place_k.repeat_interleave(group, 1).transpose(2, 3)).gather(3, index)
        from_place = (k.repeat_interleave(group, 1) @ place_q.transpose(2, 3)).gather(3, index.transpose(2, 3))
        added = (to_place + from_place.transpose(2, 3)) / (3 * q.size(3)) ** 0.5
        if added.dtype == torch.bfloat16 and added.device.type == "cpu":
            added = added.float()  # on a CPU, autocast computes attention in fp32 and leaves the mask as it is
        added = added if mask is None else added.masked_fill(~mask, float("-inf"))
        return merged(attend(q / 3**0.5, k, v, added, self.dropout if self.training else 0.0))


class DisentangledLayer(Layer):
    """An encoder layer with disentangled attention.

    Args:
        width, heads, kv_heads, ffn_width, dropout, activation, pre_norm: As in Layer.
        rotary: Must be false: distances have vectors.
        distance: Greatest distance with a vector of its own.
        options: Other arguments of Layer.

    Raises:
        UserError: rotary positions.
    """

    Config = DisentangledConfig
    biased = False
    optional = ("norm_type", "head_width", "bias")

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, rotary: bool, distance: int,
                 attention_dropout: float = 0.0, head_width: int | None = None, bias: bool = True,
                 **options):  # fmt: skip
        if rotary:
            raise UserError("model.positions=rotary: model.encoder.layer=disentangled has vectors of distances; choose "
                            "sinusoidal or none")  # fmt: skip
        sizes = {"head_width": head_width, "bias": bias}
        super().__init__(width, heads, kv_heads, ffn_width, rotary=False, attention_dropout=attention_dropout, **sizes,
                         **options)  # fmt: skip
        self.attention = DisentangledAttention(width, heads, kv_heads, attention_dropout, distance, **sizes)
