"""`decode.forbidden`: words and phrases that no hypothesis holds.

Shapes: R rows, V vocabulary, W tokens that are remembered of each row, P phrases of n tokens.
"""

from collections import defaultdict

import torch
from torch import Tensor

from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule, forbid

Ids = list[int]


class Forbidden(Rule):
    """Some sequences of tokens are in no hypothesis.

    Args:
        phrases: Token ids of each, at least one.
        device: Of the models.
    """

    def __init__(self, phrases: list[Ids], device: torch.device | str):
        by_length = defaultdict(list)
        for phrase in phrases:
            by_length[len(phrase)].append(phrase)
        self.phrases = [torch.tensor(some, device=device) for some in by_length.values()]  # each [P, n]

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        for phrases in self.phrases:
            n = phrases.size(1)
            if history.size(1) < n - 1:
                continue
            before = history[:, history.size(1) - n + 1 :]  # [R, n - 1]
            same = (before[:, None] == phrases[:, :-1]).all(dim=2)
            forbid(logits, phrases[:, -1].expand(len(history), -1), same)
