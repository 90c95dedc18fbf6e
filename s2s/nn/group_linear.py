"""Group-linear maps.

Shapes: G groups.
"""

import torch
from torch import Tensor, nn


class GroupLinear(nn.Module):
    """A linear map with a block-diagonal matrix: each of G equal parts of a vector has a linear map of its own.

    Args:
        inputs, outputs: Widths of the input and of the output; multiples of G.
        groups: G.
    """

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        bound = (6 * groups / (inputs + outputs)) ** 0.5  # Xavier initialisation of each map
        self.weight = nn.Parameter(torch.empty(groups, inputs // groups, outputs // groups).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        groups = x.unflatten(-1, (len(self.weight), -1))
        return torch.einsum("...gi,gio->...go", groups, self.weight).flatten(-2) + self.bias
