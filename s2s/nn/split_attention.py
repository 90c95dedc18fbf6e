"""Split attention: the keys of a decoding step are cut into parts, and the parts' results are merged exactly.

Paper: Sanovar et al., "Lean Attention: Hardware-Aware Scalable Attention Mechanism for the Decode-Phase of
Transformers", 2024, https://arxiv.org/abs/2405.10480.

Softmax attention of queries [B, H, T, d] over keys in parts of `size` positions: each part gives its greatest logit m,
the sum l of exp(logit - m), and the sum o of the values so weighted. Two parts are merged by m = max(m1, m2), l = l1
exp(m1 - m) + l2 exp(m2 - m), and o likewise; o / l at the end is the attention over all keys. Merging is associative,
so that parts may be computed anywhere. A step's attention to itself and to the source is computed so.

Use: `decode.split_keys=256 decode.backend=eager`

Left out: the tiles that a GPU's blocks share evenly, which make it fast there; here parts follow each other in PyTorch
operators, with memory for the logits of one part, and it is not faster. The compiled kernels do not have it.
"""

import torch
from torch import Tensor


def split_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, size: int) -> Tensor:
    """The result of s2s.nn.attention.attend without dropout, computed over `size` keys at a time."""
    groups = q.size(1) // k.size(1)
    total = None
    for first in range(0, k.size(2), size):
        span = slice(first, first + size)
        keys, values = (x[:, :, span].repeat_interleave(groups, 1) for x in (k, v))
        total = merged_parts(total, _part(q, keys, values, None if mask is None else mask[..., span]))
    _, weight, summed = total
    return summed / weight


def _part(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """m [B, H, T, 1], l [B, H, T, 1] and o [B, H, T, d] of a part of the keys; l and o are 0 if a query sees none."""
    logits = q @ k.transpose(2, 3) / q.size(3) ** 0.5
    if mask is not None:
        logits = logits + mask if mask.is_floating_point() else logits.masked_fill(~mask, float("-inf"))
    top = logits.amax(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).min)  # finite even if a query sees no key
    weights = (logits - top).exp()
    return top, weights.sum(-1, keepdim=True), weights @ v


def merged_parts(one: tuple[Tensor, Tensor, Tensor] | None,
                 other: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The merged result of two parts; one: None for no part."""
    if one is None:
        return other
    top = torch.maximum(one[0], other[0])
    scale, other_scale = (one[0] - top).exp(), (other[0] - top).exp()
    return top, one[1] * scale + other[1] * other_scale, one[2] * scale + other[2] * other_scale
