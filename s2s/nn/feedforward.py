"""The position-wise feed-forward block."""

from torch import Tensor, nn
from torch.nn import functional

from s2s.nn.dropout import dropout

ACTIVATIONS = ("relu", "gelu", "swiglu", "geglu", "silu")  # the kernels know them by their places
GATED = ("swiglu", "geglu")
FUNCTIONS = {"relu": functional.relu, "gelu": functional.gelu, "silu": functional.silu}


class FeedForward(nn.Module):
    """Two linear maps around an activation; `swiglu` and `geglu` gate the inner states (Shazeer 2020). GELU is exact in
    `gelu`, and its tanh approximation in `geglu`, as in T5.

    Args:
        width: D.
        inner: Width between the two maps.
        activation: One of ACTIVATIONS.
        dropout: Dropout probability of inner states.
        bias: Whether the maps have biases.
    """

    def __init__(self, width: int, inner: int, activation: str, dropout: float, bias: bool = True):
        super().__init__()
        self.activation, self.dropout = activation, dropout
        self.inner = nn.Linear(width, inner * (2 if activation in GATED else 1), bias=bias)
        self.outer = nn.Linear(inner, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]"""
        x = self.inner(x)
        if self.activation == "swiglu":
            gate, value = x.chunk(2, dim=-1)
            x = functional.silu(gate) * value
        elif self.activation == "geglu":
            gate, value = x.chunk(2, dim=-1)
            x = functional.gelu(gate, approximate="tanh") * value
        else:
            x = FUNCTIONS[self.activation](x)
        return self.outer(dropout(x, self.dropout, self.training))
