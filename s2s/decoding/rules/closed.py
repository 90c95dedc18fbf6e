"""Prefixes of whole words, of a model that writes the last word first.

Shapes: R rows, V vocabulary, W tokens that are remembered of each row.
"""

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule


class Closed(Rule):
    """A prefix that is one word is a whole one: no token comes after it that lengthens the word.

    Args:
        closing: Bool [V], tokens that lengthen none.
        device: Of the models.
    """

    def __init__(self, closing: np.ndarray, device: torch.device):
        self.closing = torch.from_numpy(closing).to(device)

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        done, _, _, lengths = limits.host
        here = (done == lengths) & (lengths > 0)
        if not here.any():
            return
        steps = torch.from_numpy(np.where(here, done, 0).repeat(len(history) // len(done))).to(history.device)
        # Of the tokens after the first one, none begins another word.
        later = torch.arange(history.size(1), 0, -1, device=history.device) < steps[:, None]
        one = (steps > 0) & ~(self.closing[history] & later).any(dim=1)
        logits.masked_fill_(one[:, None] & ~self.closing, NEVER)
