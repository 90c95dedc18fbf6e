"""Attention by softmax1: exp(x_i) / (1 + sum over j of exp(x_j)), with which a query may attend to nothing.

It is the softmax over one more key and value, both zero.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from s2s.nn.attention import SelfAttention, attend, merged
from s2s.nn.log_length import log_length


class Softmax1Attention(SelfAttention):
    """Self-attention of an encoder by softmax1."""

    varlen = False

    def attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """As in SelfAttention. A mask is necessary: bool, or float to be added to the logits."""
        q, k, v = self.split(qkv)
        if self.log_length:
            q = log_length(q, mask)
        k, v = (pad(x, (0, 0, 0, 1)) for x in (k, v))
        mask = pad(mask, (0, 1), value=True if mask.dtype == torch.bool else 0.0)
        return merged(attend(q, k, v, mask, self.dropout if self.training else 0.0))
