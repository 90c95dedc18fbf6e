"""Convolutions over the positions of right-padded rows. The amount of padding does not change any result.

Shapes: B rows, S positions, F features, C channels, D model width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.nn.attention import length_mask
from s2s.nn.dropout import dropout


class Subsampling(nn.Module):
    """Convolutions that turn features into states at 1/2, 1/4 or 1/8 of the rate.

    Each convolution is 3 x 3 with stride 2 over positions and features, with ReLU. A linear map follows (as in the
    Conformer, Gulati et al. 2020).

    Args:
        features: F.
        width: D.
        factor: Number of input positions for each output position: 2, 4 or 8.
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
        """Output lengths for input lengths. An output position is real if it covers any real input position, so that no
        length becomes 0."""
        for _ in self.convolutions:
            lengths = halved(lengths)
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """x: [B, S, F]; lengths: [B]. Returns [B, S', D] and the output lengths [B]."""
        x = x[:, None]
        for convolution in self.convolutions:
            real = length_mask(lengths, x.size(2)).transpose(2, 3)  # [B, 1, S, 1]
            x = convolution(x.masked_fill(~real, 0)).relu()
            x = x.contiguous(memory_format=torch.channels_last)  # twice as fast on a CPU
            lengths = halved(lengths)
        return self.output(x.permute(0, 2, 3, 1).flatten(2)), lengths


def halved(length: Tensor | int) -> Tensor | int:
    """Output length of a convolution of width 3, stride 2 and padding 1: half of the length, rounded up."""
    return (length + 1) // 2


class Convolution(nn.Module):
    """A convolution over positions, with or without a stride.

    Args:
        inputs, outputs: Widths of the input and of the output.
        kernel: Positions that a window spans.
        stride: Positions between the starts of two windows, at most `kernel`. Window i is centred on the i-th block of
            `stride` positions; if it cannot be, it has one more position after the block than before it.
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
    """Depth-wise convolution over positions; the output is as long as the input.

    Args:
        width: D.
        kernel: Positions that a window spans; odd.
        causal: Whether a window ends at its position; otherwise it is centred on it.
    """

    def __init__(self, width: int, kernel: int, causal: bool):
        super().__init__()
        self.causal = causal
        self.weight = nn.Parameter(torch.empty(width, 1, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """x: [B, S, D]; real: bool [B, S, 1]. Returns [B, S, D]."""
        around = self.weight.size(2) - 1 if self.causal else self.weight.size(2) // 2
        # A 2-D convolution, for which [B, S, D] is the layout `channels last`, is several times as fast on a CPU.
        x = x.masked_fill(~real, 0).transpose(1, 2)[:, :, :, None]
        y = functional.conv2d(x, self.weight[:, :, :, None], self.bias, padding=(around, 0), groups=len(self.weight))
        return y[:, :, : x.size(2), 0].transpose(1, 2)


class ConvolutionModule(nn.Module):
    """The convolution module of the Conformer (Gulati et al. 2020), with a layer norm in place of its batch norm.

    The result of a batch norm depends on the other rows of the batch, on their padding, and on how a batch is divided
    into micro-batches and processes. A layer norm depends on one position only.

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
    """The merge of the E-Branchformer (Kim et al. 2022): both branches are concatenated, their depth-wise convolution
    is added, and a linear map follows.

    Args:
        width: D of each branch.
        kernel, causal: As in DepthwiseConvolution.
    """

    def __init__(self, width: int, kernel: int, causal: bool):
        super().__init__()
        self.depthwise = DepthwiseConvolution(2 * width, kernel, causal)
        self.output = nn.Linear(2 * width, width)

    def forward(self, one: Tensor, other: Tensor, real: Tensor) -> Tensor:
        """one, other: [B, S, D] each; real: bool [B, S, 1]. Returns [B, S, D]."""
        x = torch.cat([one, other], dim=-1)
        return self.output(x + self.depthwise(x, real))
