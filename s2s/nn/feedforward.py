"""The position-wise feed-forward block."""

from torch import Tensor, nn
from torch.nn import functional

from s2s.nn.dropout import dropout

ACTIVATIONS = ("relu", "gelu", "swiglu")
FUNCTIONS = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}


class FeedForward(nn.Module):
    """Two linear maps around an activation; `swiglu` gates the inner states (Shazeer 2020).

    Args:
        width: D.
        inner: Width between the two maps.
        activation: One of ACTIVATIONS, or `silu`.
        dropout: Dropout probability of inner states.
    """

    def __init__(self, width: int, inner: int, activation: str, dropout: float):
        super().__init__()
        self.activation, self.dropout = activation, dropout
        self.inner = nn.Linear(width, inner * (2 if activation == "swiglu" else 1))
        self.outer = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]"""
        x = self.inner(x)
        if self.activation == "swiglu":
            gate, value = x.chunk(2, dim=-1)
            x = functional.silu(gate) * value
        else:
            x = FUNCTIONS[self.activation](x)
        return self.outer(dropout(x, self.dropout, self.training))
