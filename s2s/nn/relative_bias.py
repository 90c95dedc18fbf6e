"""T5 and ByT5: relative position bias, RMSNorm, gated GELU, and neither biases nor scales.

Paper: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
https://arxiv.org/abs/1910.10683; Xue et al., "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models",
TACL 2022, https://arxiv.org/abs/2105.13626.

With `positions=relative_bias`, a learned number for each head and distance is added to the logits of self-attention,
[B, H, T, T]. All layers of a stack share the table [buckets, H]. Half of the buckets are for one distance each, the
others for ranges of distances that grow up to `relative_distance`; the last bucket has all greater distances. The
encoder has half of its buckets for each direction, and the decoder has all of them for earlier positions. The
attention to the source has no positions. The other options are those of T5 1.1, ByT5 and mT5: `norm_type=rms`,
`activation=geglu` (GELU by its tanh approximation times a second map), `bias=false` (no linear map of a layer has a
bias), `scale_attention=false` (logits are q k, not divided by sqrt(d)), `scale_embeddings=false` (not multiplied by
sqrt(D)), and heads of any width (`head_width`). ByT5 has a matrix of its own for the output
(`tie_embeddings=inputs`). A T5 that shares it multiplies states by 1 / sqrt(D) before it (`scale_output=true`).

Use: tokenizer=bytes model=byt5_tiny; model=byt5_small; or each option alone, model.positions=relative_bias

Left out: dropout after the last norm of each stack. The compiled step has none of this but `bias=false`, `head_width`
and `scale_embeddings=false`: decoding uses PyTorch operators. `log_length_scale` and encoders that reorder or delete
positions refuse the relative bias. Uncertain: nothing; the logits are those of another implementation.
"""

import math

import torch
from torch import Tensor, nn


def buckets_of(distances: Tensor, buckets: int, most: int) -> Tensor:
    """The bucket of each distance.

    Args:
        distances: Int64 [...], not negative.
        buckets: Number of buckets, n. Distances below n // 2 have one each.
        most: Distance from which all are in the last bucket.
    """
    exact = buckets // 2
    share = torch.log(distances.clamp(min=1).float() / exact) / math.log(most / exact)  # of the range, 0 to 1
    coarse = exact + (share * (buckets - exact)).long()
    return torch.where(distances < exact, distances, coarse.clamp(max=buckets - 1))


class RelativeBias(nn.Module):
    """A learned number for each head and distance between query and key.

    Args:
        heads: H.
        buckets: Rows of the table.
        most: Distance from which all are in the last bucket.
        causal: Whether no query sees a later key; otherwise each direction has half of the buckets.
    """

    def __init__(self, heads: int, buckets: int, most: int, causal: bool):
        super().__init__()
        self.buckets, self.most, self.causal = buckets, most, causal
        self.weight = nn.Parameter(torch.zeros(buckets, heads))

    def of(self, offsets: Tensor) -> Tensor:
        """The numbers of each head, [..., H]; offsets: int64 [...], place of the key less that of the query."""
        if self.causal:
            places = buckets_of((-offsets).clamp(min=0), self.buckets, self.most)
        else:
            half = self.buckets // 2
            places = buckets_of(offsets.abs(), half, self.most) + half * (offsets > 0)
        return nn.functional.embedding(places, self.weight)

    def masked(self, mask: Tensor) -> Tensor:
        """What is added to the logits of whole rows: float [B, H, T, T], minus infinity where the mask is false.

        Args:
            mask: Bool [B, 1, 1 or T, T], true at the keys of each query.
        """
        size = mask.size(3)
        line = self.of(torch.arange(1 - size, size, device=mask.device))  # [2T - 1, H]
        square = line.unfold(0, size, 1).flip(0).transpose(0, 1)  # row t begins with the offset -t
        return square.masked_fill(~mask, float("-inf"))

    def step(self, places: Tensor, length: int, seen: Tensor | None) -> Tensor:
        """What is added to the logits of some queries: float [B, H, T, L].

        Args:
            places: [B, T] int64, places of the queries.
            length: L; keys are at places 0 to L - 1.
            seen: Bool [B, 1, 1 or T, L], true at the keys of each query; None: all.
        """
        offsets = torch.arange(length, device=places.device) - places[:, :, None]
        added = self.of(offsets).movedim(3, 1)
        return added if seen is None else added.masked_fill(~seen, float("-inf"))
