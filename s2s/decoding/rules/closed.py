"""Forced prefixes of whole words, for models that write the last word first.

Shapes: R rows, V vocabulary, W tokens of history per row.
"""

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.rules.rule import Rule


class Closed(Rule):
    """After a prefix that is one word, only tokens are allowed that do not lengthen this word.

    Args:
        closing: Bool [V], tokens that do not lengthen a word.
        device: Device of the models.
    """

    def __init__(self, closing: np.ndarray, device: torch.device):
        self.closing = torch.from_numpy(closing).to(device)

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        done, _, _, lengths = limits.host
        ends_here = (done == lengths) & (lengths > 0)
        if not ends_here.any():
            return
        steps = torch.from_numpy(np.where(ends_here, done, 0).repeat(len(history) // len(done))).to(history.device)
        # Of the tokens after the first one, none begins another word.
        later = torch.arange(history.size(1), 0, -1, device=history.device) < steps[:, None]
        one_word = (steps > 0) & ~(self.closing[history] & later).any(dim=1)
        logits.masked_fill_(one_word[:, None] & ~self.closing, NEVER)
