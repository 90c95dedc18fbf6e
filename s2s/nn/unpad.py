"""ByteTransformer: nothing is computed on padding, attention included.

Paper: Zhai et al., "ByteTransformer: A High-Performance Transformer Boosted for Variable-Length Inputs", IPDPS 2023,
https://arxiv.org/abs/2210.03052.

The P real tokens of padded rows [B, S, D] are gathered, [P, D]. Linear maps, norms, dropout and feed-forward blocks
compute on them, and the last states are scattered back. For attention, either queries, keys and values are padded again
in every layer (`model.encoder.unpad`), or attention has no padding either (`unpad_attention`): sentences of equal
length n are one product [sentences, H, n, n], which needs no mask. In packed rows, each example attends to itself only,
while padded attention computes all pairs of a row. Results are the same up to the rounding of sums.

Use: `model.encoder.unpad=true model.encoder.unpad_attention=true`

Left out: fused kernels. On a GPU in bf16 or fp16, attention is one call of `torch.nn.attention.varlen` (PyTorch 2.10),
unless attention weights have dropout; this was tested without a GPU only.
"""

import functools

import torch
from torch import Tensor

from s2s.nn.log_length import log_length


class RealTokens:
    """Gathers the real tokens of padded rows, and scatters them back.

    On a CPU, gathering them for all but attention was faster than PyTorch's jagged tensors (tests/benchmarks/unpad.py).
    Flex attention cannot be trained on a CPU (PyTorch 2.13).

    Args:
        real: Bool [B, S], true at real tokens. Counting them synchronises with the device.
    """

    def __init__(self, real: Tensor):
        self.shape = real.shape
        self.places = real.flatten().nonzero().squeeze(1)

    def unpad(self, x: Tensor) -> Tensor:
        """[B, S, ...] -> [P, ...], the real tokens, row after row"""
        return x.flatten(0, 1).index_select(0, self.places)

    def pad(self, x: Tensor) -> Tensor:
        """[P, ...] -> [B, S, ...], zero at padding"""
        rows = x.new_zeros(self.shape.numel(), *x.shape[1:])
        return rows.index_copy_(0, self.places, x).unflatten(0, self.shape)

    def attend(self, qkv: Tensor, attention, mask: Tensor | None) -> Tensor:
        """Attention over padded rows.

        Args:
            qkv: [P, (H + 2G) * d], queries, keys and values.
            attention: The SelfAttention.
            mask: Bool [B, 1, 1 or S, S], true at the keys of each query.

        Returns:
            [P, H * d]
        """
        return self.unpad(attention.attend(self.pad(qkv), mask))


class Sequences(RealTokens):
    """Real tokens whose attention has no padding either: each sequence attends to itself.

    Args:
        real: As in RealTokens.
        segments: [B, S] int64, number of the example within its row, where rows are packed; None: a row is one example.
    """

    def __init__(self, real: Tensor, segments: Tensor | None = None):
        super().__init__(real)
        rows = torch.arange(len(real), device=real.device)[:, None] * real.size(1)
        sequence = rows.expand(self.shape) if segments is None else rows + segments
        lengths = torch.unique_consecutive(self.unpad(sequence), return_counts=True)[1]
        self.lengths = lengths.repeat_interleave(lengths)  # [P], of each token's sequence
        self.ends = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
        self.order = self.lengths.argsort(stable=True)  # sequences of equal length follow each other
        self.back = self.order.argsort()
        sizes, counts = lengths.unique(return_counts=True)
        self.groups = list(zip(counts.tolist(), sizes.tolist(), strict=True))  # sequences, and their length

    @functools.cached_property
    def positions(self) -> Tensor:
        """Places of the tokens in their sequences, [1, P]."""
        return (torch.arange(len(self.lengths), device=self.ends.device) - self.ends[:-1].repeat_interleave(
            self.ends.diff(), output_size=len(self.lengths)))[None]  # fmt: skip

    def attend(self, qkv: Tensor, attention, mask: Tensor | None = None) -> Tensor:
        """As in RealTokens; the mask is not read."""
        if (varlen := varlen_attention(qkv, attention)) is not None:
            return self._attend_at_once(qkv, attention, varlen)
        sorted_groups = qkv.index_select(0, self.order).split([count * size for count, size in self.groups])
        parts = [
            attention.attend(group.unflatten(0, shape), None).flatten(0, 1)
            for group, shape in zip(sorted_groups, self.groups, strict=True)
        ]
        return torch.cat(parts).index_select(0, self.back)

    def _attend_at_once(self, qkv: Tensor, attention, varlen) -> Tensor:
        """All sequences in one call of `torch.nn.attention.varlen`."""
        q, k, v = attention.split(qkv[None], self.positions)
        if attention.log_length:
            q = log_length(q, self.lengths[None, None, :, None])
        q, k, v = (x[0].transpose(0, 1) for x in (q, k, v))  # [P, H or G, d]
        ends, longest = self.ends.to(torch.int32), self.groups[-1][1]
        return varlen(q, k, v, ends, ends, longest, longest, enable_gqa=q.size(1) != k.size(1)).flatten(1)


def varlen_attention(qkv: Tensor, attention):
    """PyTorch's attention over sequences of any lengths, if it can compute this attention; else None."""
    head = attention.sizes[0] // attention.heads
    if (
        not attention.varlen
        or qkv.device.type != "cuda"
        or qkv.dtype not in (torch.bfloat16, torch.float16)
        or head % 8
        or head > 256
    ):
        return None
    if attention.training and attention.dropout:
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # before PyTorch 2.10
        return None
    return varlen_attn
