"""`decode.no_repeat_ngram`: no sequence of n tokens occurs twice in a hypothesis.

Shapes: R rows, V vocabulary, W tokens of history per row.
"""

import dataclasses

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule, forbid


@dataclasses.dataclass
class NoRepeatedNgramConfig:
    """Options of the rule."""

    type: str = option("no_repeat_ngram", "component")
    n: int = option(3, "length of the sequences that may occur only once, in tokens", at_least=1, at_most=10_000)


class NoRepeatedNgram(Rule):
    """No hypothesis contains the same n tokens twice."""

    Config = NoRepeatedNgramConfig

    def __init__(self, config: NoRepeatedNgramConfig, loaded: None, setting):
        super().__init__(config, loaded, setting)
        self.n = config.n

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        starts = history.size(1) - self.n + 1  # of earlier n-grams, and of the one that the next token completes
        if starts <= 0:
            return
        same = torch.ones_like(history[:, :starts], dtype=torch.bool)
        for i in range(self.n - 1):
            same &= history[:, i : i + starts] == history[:, starts + i, None]
        forbid(logits, history[:, self.n - 1 :], same)
