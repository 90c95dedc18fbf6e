"""The first components of a state as logits: see `s2s/models/frontends/one_hot.py`.

Shapes: D width, V vocabulary, V <= D.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.embeddings.one_hot import check_width


@dataclasses.dataclass
class OneHotOutputConfig:
    """Options of the output."""

    type: str = option("one_hot", "component")


class OneHotOutput(nn.Module):
    """The logit of symbol i is component i of the state, times a learned number.

    Args:
        config: The options; there are none to choose.
        width: D.
        size: V.

    Raises:
        UserError: more symbols than D.
    """

    Config = OneHotOutputConfig
    by_id = True  # as in OneHot

    def __init__(self, config: OneHotOutputConfig, width: int, size: int):
        super().__init__()
        check_width("model.output", "model.decoder.width", size, width)
        self.size, self.scale = size, nn.Parameter(torch.tensor(width**0.5))

    def forward(self, states: Tensor) -> Tensor:
        """[..., D] -> [..., V]"""
        return states[..., : self.size] * self.scale
