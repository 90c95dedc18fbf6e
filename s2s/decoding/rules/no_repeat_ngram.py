"""`decode.no_repeat_ngram`: no sequence of n tokens comes twice.

Shapes: R rows, V vocabulary, W tokens that are remembered of each row.
"""

import torch
from torch import Tensor

from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule, forbid


class NoRepeatedNgram(Rule):
    """No hypothesis holds the same n tokens twice.

    Args:
        n: At least 1.
    """

    def __init__(self, n: int):
        self.n = n

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        starts = history.size(1) - self.n + 1  # of earlier n-grams, and of the one that the next token completes
        if starts <= 0:
            return
        same = torch.ones_like(history[:, :starts], dtype=torch.bool)
        for i in range(self.n - 1):
            same &= history[:, i : i + starts] == history[:, starts + i, None]
        forbid(logits, history[:, self.n - 1 :], same)
