"""Highway layers (Srivastava et al. 2015): a gate mixes the input of a layer with its output, component by component.

Shapes: D width.
"""

from torch import Tensor, nn


class Highway(nn.Module):
    """g * relu(W x) + (1 - g) * x, with g = sigmoid(V x).

    Args:
        width: D.
        carry: Subtracted from the logit of the gate; a greater value carries more of x to the output.
    """

    def __init__(self, width: int, carry: float = 2.0):
        super().__init__()
        self.carry = carry
        self.change, self.gate = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]"""
        gate = (self.gate(x) - self.carry).sigmoid()
        return gate * self.change(x).relu() + (1 - gate) * x
