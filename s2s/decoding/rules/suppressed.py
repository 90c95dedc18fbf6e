"""Symbols that a search never writes, or not as the first token after what every target begins with (`task.suppressed`,
`task.suppressed_first`).

Shapes: R rows, V vocabulary, W tokens of history per row.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule


class Suppressed(Rule):
    """The rule.

    Args:
        always, first: Ids of the symbols.
        device: Device of the models.
    """

    def __init__(self, always: Sequence[int], first: Sequence[int], device: torch.device):
        self.always, self.first = (torch.tensor(list(ids), dtype=torch.int64, device=device) for ids in (always, first))

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        logits[:, self.always] = NEVER
        done, _, _, lengths = limits.host
        begins = done == lengths
        if len(self.first) and begins.any():
            rows = torch.from_numpy(begins.repeat(len(history) // len(done))).to(logits.device)
            logits[:, self.first] = logits[:, self.first].masked_fill(rows[:, None], NEVER)
