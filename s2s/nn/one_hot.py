"""Symbols as one-hot vectors.

Shapes: D width, V vocabulary, V <= D.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class OneHot(nn.Module):
    """Component i of the vector of symbol i is a number that is learned, sqrt(D) at first; the others are 0.

    Args:
        width: D.

    Attributes:
        embedding_dim: D, as of an embedding matrix.
        by_id: Weights mean symbols by their numbers, and not by rows that could be moved.
    """

    by_id = True

    def __init__(self, width: int):
        super().__init__()
        self.embedding_dim, self.scale = width, nn.Parameter(torch.tensor(width**0.5))

    def forward(self, ids: Tensor) -> Tensor:
        """[...] int64 -> [..., D]"""
        return functional.one_hot(ids, self.embedding_dim).to(self.scale.dtype) * self.scale
