"""Convolutions over the positions of right-padded rows. No result depends on how much padding there is.

Shapes: B rows, S positions, F features, C channels, D model width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.nn.attention import length_mask
from s2s.nn.dropout import dropout


class Subsampling(nn.Module):
    """Features to states at 1/2, 1/4 or 1/8 of their rate: convolutions 3 x 3 of stride 2 over positions and features,
    each with ReLU, and a linear map (as in the Conformer, Gulati et al. 2020).

    Args:
        features: F.
        width: D.
        factor: How many positions become one: 2, 4 or 8.
        channels: C.
    """

    def __init__(self, features: int, width: int, factor: int, channels: int):
        super().__init__()
        stages = factor.bit_length() - 1
        self.convolutions = nn.ModuleList(
            nn.Conv2d(channels if stage else 1, channels, 3, stride=2, padding=1) for stage in range(stages)
        )
        for _ in range(stages):
            features = halved(features)
        self.output = nn.Linear(features * channels, width)

    def lengths(self, lengths: Tensor | int) -> Tensor | int:
        """What remains of these lengths; a position that has any real one under it is real, so none becomes 0."""
        for _ in self.convolutions:
            lengths = halved(lengths)
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, S, F]; lengths: [B]. Returns [B, S', D] and what the lengths have become."""
        x = x[:, None]
        for convolution in self.convolutions:
            real = length_mask(lengths, x.size(2)).transpose(2, 3)  # [B, 1, S, 1]
            x = convolution(x.masked_fill(~real, 0)).relu()
            x = x.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
            lengths = halved(lengths)
        return self.output(x.permute(0, 2, 3, 1).flatten(2)), lengths


def halved(length: Tensor | int) -> Tensor | int:
    """What a convolution of width 3, stride 2 and padding 1 leaves of a length: half of it, rounded up."""
    return (length + 1) // 2


class Convolution(nn.Module):
    """A convolution over positions, with or without a stride.

    Args:
        inputs, outputs: Widths.
        kernel: Positions that it spans.
        stride: Positions from one result to the next, at most `kernel`. Result i is of a span in whose middle the i-th
            block of so many positions is (one more after it than before it, if it cannot be).
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1):
        super().__init__()
        self.kernel, self.stride = kernel, stride
        bound = (inputs * kernel) ** -0.5
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x: [B, S, inputs]; real: bool [B, S, 1]. Returns [B, ceil(S / stride), outputs]."""
        before = (self.kernel - self.stride) // 2
        after = -x.size(1) % self.stride + self.kernel - self.stride - before
        x = functional.pad(x.masked_fill(~real, 0).transpose(1, 2), (before, after))
        return functional.conv1d(x, self.weight, self.bias, self.stride).transpose(1, 2)


class DepthwiseConvolution(nn.Module):
    """A convolution of each channel by itself over the positions, as long as its input.

    Args:
        width: D.
        kernel: Positions that it spans; odd.
        causal: A position sees the `kernel` ones up to itself; else it is in their middle.
    """

    def __init__(self, width: int, kernel: int, causal: bool):
        super().__init__()
        self.causal = causal
        self.weight = nn.Parameter(torch.empty(width, 1, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x: [B, S, D]; real: bool [B, S, 1]. Returns [B, S, D]."""
        around = self.weight.size(2) - 1 if self.causal else self.weight.size(2) // 2
        # In two dimensions, where [B, S, D] is the layout `channels last`: several times as fast on a CPU.
        x = x.masked_fill(~real, 0).transpose(1, 2)[:, :, :, None]
        y = functional.conv2d(x, self.weight[:, :, :, None], self.bias, padding=(around, 0), groups=len(self.weight))
        return y[:, :, : x.size(2), 0].transpose(1, 2)


class ConvolutionModule(nn.Module):
    """The convolution module of the Conformer (Gulati et al. 2020), with a layer norm in place of its batch norm.

    A batch norm's result depends on the rest of the batch, padding among it, and on how a batch is divided among
    micro-batches and processes; a layer norm's is a matter of each position.

    Args:
        width: D.
        kernel, causal: As in DepthwiseConvolution.
    """

    def __init__(self, width: int, kernel: int, causal: bool):
        super().__init__()
        self.inner = nn.Linear(width, 2 * width)
        self.depthwise = DepthwiseConvolution(width, kernel, causal)
        self.norm = nn.LayerNorm(width)
        self.outer = nn.Linear(width, width)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x: [B, S, D]; real: bool [B, S, 1]. Returns [B, S, D]."""
        x = self.depthwise(functional.glu(self.inner(x), dim=-1), real)
        return self.outer(functional.silu(self.norm(x)))


class ConvolutionalGating(nn.Module):
    """The cgMLP of the Branchformer (Peng et al. 2022): one half of the inner states, after a convolution, gates the
    other.

    Args:
        width: D.
        inner: Width between the two linear maps; even.
        kernel, causal: As in DepthwiseConvolution.
        dropout: Probability of dropping a gated state.
    """

    def __init__(self, width: int, inner: int, kernel: int, causal: bool, dropout: float):
        super().__init__()
        self.dropout = dropout
        self.inner = nn.Linear(width, inner)
        self.norm = nn.LayerNorm(inner // 2)
        self.depthwise = DepthwiseConvolution(inner // 2, kernel, causal)
        self.outer = nn.Linear(inner // 2, width)
        with torch.no_grad():  # all gates are near 1 at first
            self.depthwise.weight.mul_(1e-3)
            self.depthwise.bias.fill_(1)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x: [B, S, D]; real: bool [B, S, 1]. Returns [B, S, D]."""
        value, gate = functional.gelu(self.inner(x)).chunk(2, dim=-1)
        gated = value * self.depthwise(self.norm(gate), real)
        return self.outer(dropout(gated, self.dropout, self.training))


class Merge(nn.Module):
    """How the E-Branchformer (Kim et al. 2022) makes one of two branches: side by side, with a convolution added, and a
    linear map.

    Args:
        width: D of each.
        kernel, causal: As in DepthwiseConvolution.
    """

    def __init__(self, width: int, kernel: int, causal: bool):
        super().__init__()
        self.depthwise = DepthwiseConvolution(2 * width, kernel, causal)
        self.output = nn.Linear(2 * width, width)

    def forward(self, one: Tensor, other: Tensor, real: Tensor) -> Tensor:
        """Two of [B, S, D]; real: bool [B, S, 1]. Returns [B, S, D]."""
        x = torch.cat([one, other], dim=-1)
        return self.output(x + self.depthwise(x, real))
