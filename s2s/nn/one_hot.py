"""Symbols as one-hot vectors.

Shapes: D width, V vocabulary, V <= D.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class OneHot(nn.Module):
    """One-hot vectors, scaled by a learned number that is sqrt(D) initially.

    Args:
        width: D.

    Attributes:
        embedding_dim: D, as in an embedding matrix.
        by_id: The weights depend on the numbers of the symbols, so that their rows cannot be permuted.
    """

    by_id = True

    def __init__(self, width: int):
        super().__init__()
        self.embedding_dim, self.scale = width, nn.Parameter(torch.tensor(width**0.5))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] int64 -> [..., D]"""
        return functional.one_hot(ids, self.embedding_dim).to(self.scale.dtype) * self.scale
