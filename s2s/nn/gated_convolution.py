"""Convolutions with gated linear units, in place of self-attention and feed-forward blocks.

Paper: Gehring et al., "Convolutional Sequence to Sequence Learning", ICML 2017, https://arxiv.org/abs/1705.03122.

One block maps the k states around a position (before it, in a decoder) to 2D numbers, of which one half gates the
other: [B, T, k * D] -> [B, T, D]. Its input is added to its result. A decoder's layer attends to the memory after that
(with one head in the paper). A decoder holds the last k - 1 states of each layer, however long a hypothesis is.

Use: model=fconv_tiny, or model.encoder.layer=fconv model.encoder.layer.kernel=3 model.decoder=convolutional
model.decoder.layer=fconv

Left out: weight normalisation and the scale sqrt(0.5) of each sum: the Transformer's layer norms stand in their place;
source embeddings in the values of the attention: values are the encoder's states alone; layers of several widths.
"""

import dataclasses
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.config.schema import option
from s2s.nn.convolving import ConvolvingLayer, Window
from s2s.nn.unpad import RealTokens


@dataclasses.dataclass
class GatedConvolutionConfig:
    """Options of the layer, beside those of its stack."""

    type: str = option("fconv", "component")
    kernel: int = option(3, "positions of a window; odd in an encoder", at_least=1, at_most=1000)


class GatedConvolution(Window):
    """The gated convolution.

    Args:
        width: D.
        kernel, causal: As in Window.
    """

    def __init__(self, width: int, kernel: int, causal: bool):
        super().__init__(kernel, causal)
        self.output = nn.Linear(kernel * width, 2 * width)

    def values(self, x: Tensor) -> Tensor:
        """As in Window."""
        return x

    def forward(self, x: Tensor, mask: Tensor | None = None, real: RealTokens | None = None) -> Tensor:
        """x: [B, T, D]; mask: bool [B, 1, 1 or T, T], true at the positions that a position may see; None: causal.
        Returns [B, T, D]."""
        T = x.size(1)
        if mask is not None and mask.size(2) == 1:
            x = x * mask[:, 0, 0, :, None]
        padded = functional.pad(x, (0, 0, self.before, self.kernel - 1 - self.before))
        windows = padded.unfold(1, self.kernel, 1).transpose(2, 3)  # [B, T, k, D]
        if mask is not None and mask.size(2) > 1:
            places = self.places(T, x.device).clamp(0, T - 1).expand(len(mask), -1, -1)
            windows = windows * mask[:, 0].expand(-1, T, -1).gather(2, places)[..., None]
        return self._gated(windows.flatten(2))

    def mix(self, window: Tensor) -> Tensor:
        """As in Window."""
        return self._gated(window.flatten(1))

    def _gated(self, windows: Tensor) -> Tensor:
        return functional.glu(self.output(windows), dim=-1)


class GatedConvolutionLayer(ConvolvingLayer):
    """A gated convolution and, in a decoder, cross-attention, each with a residual connection and a norm.

    Args:
        width: D.
        heads, kv_heads: Numbers of heads of the cross-attention; the paper has one.
        ffn_width: Not used, because there is no feed-forward block.
        kernel: k.
        options: Other arguments of ConvolvingLayer.
    """

    Config = GatedConvolutionConfig

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, kernel: int, **options):
        super().__init__(width, heads, kv_heads, 1, window=partial(GatedConvolution, width, kernel), **options)
        self.feedforward, self.feedforward_norm = Nothing(), nn.Identity()

    def outputs(self) -> list[nn.Linear]:
        """The linear maps at the end of each residual block."""
        return [self.attention.output, *([self.cross.output] if self.attends else [])]


class Nothing(nn.Module):
    """A block whose output is zero."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(x)
