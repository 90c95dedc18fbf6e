"""Encoder layers with convolutions. The amount of padding does not change any result.

Shapes: B rows, S positions, D width.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.nn.attention import SelfAttention
from s2s.nn.convolution import ConvolutionalGating, ConvolutionModule, Merge
from s2s.nn.dropout import dropout
from s2s.nn.feedforward import FeedForward


@dataclasses.dataclass
class ConformerConfig:
    """Options of the layer, beside those of its stack."""

    type: str = option("conformer", "component")
    kernel: int = option(15, "positions that a depth-wise convolution spans; odd", at_least=1, at_most=4096)


@dataclasses.dataclass
class EBranchformerConfig(ConformerConfig):
    """Options of the layer, beside those of its stack."""

    type: str = option("e_branchformer", "component")


class ConformerLayer(nn.Module):
    """Conformer layer (Gulati et al. 2020): self-attention and a convolution between two half-step feed-forward blocks.

    Args:
        width: D.
        heads: Number of attention heads; divides D.
        kv_heads: Number of key/value heads; divides `heads`.
        ffn_width: Inner width of the feed-forward blocks.
        kernel: Positions that the convolution spans; odd.
        activation: Activation function of the feed-forward blocks.
        rotary: Whether queries and keys have rotary positions.
        causal: Whether the convolution sees no later position.
        dropout: Dropout probability of the output of every block.
        attention_dropout: Dropout probability of attention weights.
        activation_dropout: Dropout probability inside the feed-forward blocks.
        log_length: Whether attention logits are multiplied by the logarithm of the number of keys.
    """

    Config = ConformerConfig
    norms = ("pre",)
    convolves = True
    unpads = False
    segmented = False  # the convolution would see the neighbours in a packed row
    optional = ("log_length",)

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, kernel: int, activation: str,
                 rotary: bool, causal: bool, dropout: float, attention_dropout: float, activation_dropout: float,
                 log_length: bool = False):  # fmt: skip
        super().__init__()
        self.dropout = dropout
        self.before, self.after = (
            HalfFeedForward(width, ffn_width, activation, dropout, activation_dropout) for _ in range(2)
        )
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, kv_heads, attention_dropout, False, rotary, log_length)
        self.convolution_norm = nn.LayerNorm(width)
        self.convolution = ConvolutionModule(width, kernel, causal)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """x: [B, S, D]; mask: bool [B, 1, 1 or S, S], true at the keys of each query; real: bool [B, S, 1]."""
        x = self.before(x)
        x = x + dropout(self.attention(self.attention_norm(x), mask), self.dropout, self.training)
        x = x + dropout(self.convolution(self.convolution_norm(x), real), self.dropout, self.training)
        return self.norm(self.after(x))

    def outputs(self) -> list[nn.Linear]:
        """The linear maps at the end of each residual block."""
        return [self.before.block.outer, self.attention.output, self.convolution.outer, self.after.block.outer]


class EBranchformerLayer(nn.Module):
    """E-Branchformer layer: self-attention and a gating convolution in parallel branches, merged, between two half-step
    feed-forward blocks (Kim et al. 2022).

    Args:
        width, heads, kv_heads, kernel, activation, rotary, causal, dropout, attention_dropout, activation_dropout,
            log_length: As in ConformerLayer.
        ffn_width: Inner width of the feed-forward blocks, and of the gating convolution; even.
    """

    Config = EBranchformerConfig
    norms = ("pre",)
    convolves = True
    unpads = False
    segmented = False  # the convolution would see the neighbours in a packed row
    optional = ("log_length",)

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, kernel: int, activation: str,
                 rotary: bool, causal: bool, dropout: float, attention_dropout: float, activation_dropout: float,
                 log_length: bool = False):  # fmt: skip
        super().__init__()
        self.dropout = dropout
        self.before, self.after = (
            HalfFeedForward(width, ffn_width, activation, dropout, activation_dropout) for _ in range(2)
        )
        self.attention_norm = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads, kv_heads, attention_dropout, False, rotary, log_length)
        self.gating_norm = nn.LayerNorm(width)
        self.gating = ConvolutionalGating(width, ffn_width, kernel, causal, activation_dropout)
        self.merge = Merge(width, kernel, causal)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """As of a ConformerLayer."""
        x = self.before(x)
        far = dropout(self.attention(self.attention_norm(x), mask), self.dropout, self.training)
        near = dropout(self.gating(self.gating_norm(x), real), self.dropout, self.training)
        x = x + dropout(self.merge(far, near, real), self.dropout, self.training)
        return self.norm(self.after(x))

    def outputs(self) -> list[nn.Linear]:
        """As of a ConformerLayer."""
        return [self.before.block.outer, self.merge.output, self.after.block.outer]


class HalfFeedForward(nn.Module):
    """Half-step feed-forward block: x + 1/2 f(x).

    Args:
        width, inner, activation: As in FeedForward.
        dropout: Dropout probability of the output of the block.
        activation_dropout: Dropout probability inside the block.
    """

    def __init__(self, width: int, inner: int, activation: str, dropout: float, activation_dropout: float):
        super().__init__()
        self.dropout = dropout
        self.norm = nn.LayerNorm(width)
        self.block = FeedForward(width, inner, activation, activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [B, S, D]"""
        return x + 0.5 * dropout(self.block(self.norm(x)), self.dropout, self.training)
