"""Attention scores of queries for the positions of a source: additive (Bahdanau et al. 2015) and dot product (Luong et
al. 2015).

Shapes: B sentences, S source positions, T queries, D width of a query, M width of the memory, A inner width.
"""

import torch
from torch import Tensor, nn

SCORES = ("dot", "additive")


class Scores(nn.Module):
    """Attention scores. `dot` is q . W m, Luong's `general`; `additive` is v . tanh(W q + U m + b).

    Args:
        kind: One of SCORES.
        width: D.
        memory_width: M.
    """

    def __init__(self, kind: str, width: int, memory_width: int):
        super().__init__()
        self.kind, additive = kind, kind == "additive"
        self.key = nn.Linear(memory_width, width, bias=additive)
        self.query = nn.Linear(width, width, bias=False) if additive else nn.Identity()
        self.sum = nn.Linear(width, 1, bias=False) if additive else nn.Identity()

    def forward(self, query: Tensor, keys: Tensor) -> Tensor:
        """query: [B, T, D]; keys: the output of `key` for the memory, [B, S, A]. Returns scores [B, T, S]."""
        if self.kind == "dot":
            return query @ keys.transpose(1, 2)
        return self.sum(torch.tanh(self.query(query)[:, :, None] + keys[:, None])).squeeze(3)

    def weights(self, query: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The softmax of the scores, [B, T, S]; mask: [B, 1 or T, S], bool and true at the positions that a query may
        see, or float and added to the scores."""
        scores = self(query, keys)
        if mask.is_floating_point():
            return (scores + mask).softmax(dim=2)
        return scores.masked_fill(~mask, float("-inf")).softmax(dim=2)
