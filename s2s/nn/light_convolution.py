"""Light and dynamic convolutions: normalised kernels, shared by the channels of a head, in place of self-attention.

Paper: Wu et al., "Pay Less Attention with Lightweight and Dynamic Convolutions", ICLR 2019,
https://arxiv.org/abs/1901.10430.

A gated linear unit makes values of the states, [B, T, D]. Each of H heads has a kernel of k weights, whose softmax
weighs the k values around a position (before it, in a decoder); the D/H channels of a head share it. In a light
convolution the kernels are parameters, [H, k]; in a dynamic one each position computes its own from its values by a
linear map, [B, T, H, k]. A linear map ends the block; the feed-forward block and the attention to the memory are the
Transformer's. Whole sequences are a product with a band matrix [B, H, T, T], from which padding and other examples of a
packed row are left out. A decoder holds the last k - 1 values of each layer, however long a hypothesis is.

Use: model=dynamic_conv_tiny, or model.encoder.layer=light_convolution model.encoder.layer.kernel=15
model.decoder=convolutional model.decoder.layer=dynamic_convolution

Left out: kernels that grow with the layer (3, 7, 15, 31 in the paper); all layers of a stack have one size.
"""

import dataclasses
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.config.schema import option
from s2s.nn.convolving import ConvolvingLayer, Window
from s2s.nn.dropout import dropout as drop
from s2s.nn.unpad import RealTokens


@dataclasses.dataclass
class LightConvolutionConfig:
    """Options of the layer, beside those of its stack."""

    type: str = option("light_convolution", "component")
    kernel: int = option(7, "positions of a window; odd in an encoder", at_least=1, at_most=1000)


@dataclasses.dataclass
class DynamicConvolutionConfig(LightConvolutionConfig):
    """Options of the layer, beside those of its stack."""

    type: str = option("dynamic_convolution", "component")


class LightConvolution(Window):
    """The light or dynamic convolution.

    Args:
        width: D.
        heads: H; divides D.
        kernel, causal: As in Window.
        dynamic: Whether each position computes its own kernels.
        dropout: Dropout probability of kernel weights.
    """

    def __init__(self, width: int, heads: int, kernel: int, causal: bool, dynamic: bool, dropout: float):
        super().__init__(kernel, causal)
        self.heads, self.dropout = heads, dropout
        self.inner, self.output = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.kernels = nn.Linear(width, heads * kernel, bias=False) if dynamic else None
        self.weight = None if dynamic else nn.Parameter(torch.empty(heads, kernel))
        if self.weight is not None:
            nn.init.xavier_uniform_(self.weight)

    def values(self, x: Tensor) -> Tensor:
        """As in Window."""
        return functional.glu(self.inner(x), dim=-1)

    def _weights(self, values: Tensor) -> Tensor:
        """The kernels of each position, [..., H, k]; in a light convolution those of all positions, [H, k]."""
        kernels = self.weight if self.kernels is None else self.kernels(values).unflatten(-1, (self.heads, -1))
        return drop(kernels.softmax(-1), self.dropout, self.training)

    def forward(self, x: Tensor, mask: Tensor | None = None, real: RealTokens | None = None) -> Tensor:
        """x: [B, T, D]; mask: bool [B, 1, 1 or T, T], true at the positions that a position may see; None: causal.
        Returns [B, T, D]."""
        values, T = self.values(x), x.size(1)
        weights = self._weights(values)
        weights = weights.transpose(1, 2) if weights.dim() == 4 else weights[:, None].expand(-1, T, -1)
        # Row t of T + k - 1 begins t places later than row t of T + k.
        skewed = functional.pad(weights, (0, T)).flatten(-2)[..., :-T].unflatten(-1, (T, T + self.kernel - 1))
        band = skewed[..., self.before : self.before + T]  # [B, H, T, T] or [H, T, T]
        if mask is not None:
            band = band * mask
        mixed = band.to(values.dtype) @ values.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        return self.output(mixed.transpose(1, 2).flatten(2))

    def mix(self, window: Tensor) -> Tensor:
        """As in Window."""
        weights = self._weights(window[:, -1]).expand(len(window), -1, -1)  # [R, H, k]
        mixed = weights[:, :, None] @ window.unflatten(2, (self.heads, -1)).transpose(1, 2)
        return self.output(mixed.flatten(1))


class LightConvolutionLayer(ConvolvingLayer):
    """The Transformer layer with a light convolution in place of self-attention.

    Args:
        width, heads: D and H.
        kv_heads: Number of key/value heads of the cross-attention.
        ffn_width: Inner width of the feed-forward block.
        kernel: k.
        attention_dropout: Dropout probability of kernel weights and of cross-attention weights.
        options: Other arguments of ConvolvingLayer.
    """

    Config = LightConvolutionConfig
    dynamic = False

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, kernel: int,
                 attention_dropout: float = 0.0, **options):  # fmt: skip
        window = partial(LightConvolution, width, heads, kernel, dynamic=self.dynamic, dropout=attention_dropout)
        super().__init__(width, heads, kv_heads, ffn_width, window=window, attention_dropout=attention_dropout,
                         **options)  # fmt: skip


class DynamicConvolutionLayer(LightConvolutionLayer):
    """The Transformer layer with a dynamic convolution in place of self-attention."""

    Config = DynamicConvolutionConfig
    dynamic = True
