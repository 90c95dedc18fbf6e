"""`decode.forbidden`: words and phrases that no hypothesis may contain.

Shapes: R rows, V vocabulary, W tokens of history per row, P phrases of n tokens.
"""

import dataclasses
from collections import defaultdict

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.decoding.companions import read_phrases
from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule, forbid
from s2s.text.vocabulary import UNK

Ids = list[int]


@dataclasses.dataclass
class ForbiddenConfig:
    """Options of the rule."""

    type: str = option("forbidden", "component")
    file: str | None = option(None, "file of forbidden words or phrases, one per line")


class Forbidden(Rule):
    """No hypothesis contains any of some sequences of tokens."""

    Config = ForbiddenConfig

    @classmethod
    def load(cls, config: ForbiddenConfig, task, device: torch.device) -> list[Ids]:
        phrases = read_phrases("decode.forbidden", config.file, task.encode_phrases)
        return [phrase for phrase in phrases if UNK not in phrase]  # the model cannot produce unknown symbols anyway

    def __init__(self, config: ForbiddenConfig, loaded: list[Ids], setting):
        super().__init__(config, loaded, setting)
        by_length = defaultdict(list)
        for phrase in loaded:
            by_length[len(phrase)].append(phrase)
        self.phrases = [torch.tensor(equal, device=setting.device) for equal in by_length.values()]  # each [P, n]

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        for phrases in self.phrases:
            n = phrases.size(1)
            if history.size(1) < n - 1:
                continue
            before = history[:, history.size(1) - n + 1 :]  # [R, n - 1]
            same = (before[:, None] == phrases[:, :-1]).all(dim=2)
            forbid(logits, phrases[:, -1].expand(len(history), -1), same)
