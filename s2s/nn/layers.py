"""The Transformer layer, for encoders and decoders.

Shapes: B sentences, S source positions, T target positions, P real tokens of all rows, K rows a sentence, D width, H
heads, d head width.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.nn.attention import CrossAttention, SelfAttention
from s2s.nn.dropout import dropout
from s2s.nn.feedforward import FeedForward
from s2s.nn.norms import norm_of
from s2s.nn.unpad import RealTokens


@dataclasses.dataclass
class LayerConfig:
    """Options of the Transformer's layer, beside those of its stack."""

    type: str = option("transformer", "component")


class Layer(nn.Module):
    """Self-attention, cross-attention (only with `memory_width`) and a feed-forward block, each with a residual
    connection and a norm (Vaswani et al. 2017; with grouped heads, Ainslie et al. 2023).

    Args:
        width: D.
        heads: H; divides D.
        kv_heads: Number of key/value heads; divides H.
        ffn_width: Inner width of the feed-forward block.
        activation: Activation function of the feed-forward block.
        pre_norm: Whether the norm is before each block; otherwise it is after it.
        rotary: Whether queries and keys of self-attention have rotary positions.
        causal: Whether self-attention is causal where no mask is given.
        memory_width: D of the memory; None: no cross-attention.
        dropout: Dropout probability of the output of every block.
        attention_dropout: Dropout probability of attention weights.
        activation_dropout: Dropout probability inside the feed-forward block.
        log_length: Whether attention logits are multiplied by the logarithm of the number of keys.
        norm_type: One of NORMS.
        head_width: d; None: D / H.
        bias: Whether linear maps have biases.
        scale_attention: Whether attention logits are divided by sqrt(d).
    """

    Config = LayerConfig
    norms = ("pre", "post")
    convolves = False  # true: an encoder passes the argument `causal` too
    unpads = True  # an encoder may pass real tokens only
    segmented = True  # the mask separates the examples of a packed row
    biased = True  # the mask may be float, added to the logits of attention
    optional: tuple[str, ...] = ("log_length", "norm_type", "head_width", "bias", "scale_attention")  # arguments

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, activation: str, pre_norm: bool,
                 rotary: bool, causal: bool = False, memory_width: int | None = None, dropout: float = 0.0,
                 attention_dropout: float = 0.0, activation_dropout: float = 0.0, log_length: bool = False,
                 norm_type: str = "layer", head_width: int | None = None, bias: bool = True,
                 scale_attention: bool = True):  # fmt: skip
        super().__init__()
        self.pre_norm, self.dropout = pre_norm, dropout
        options = log_length, head_width, bias, scale_attention
        self.attention = SelfAttention(width, heads, kv_heads, attention_dropout, causal, rotary, *options)
        self.attention_norm = norm_of(norm_type, width)
        self.attends = memory_width is not None
        if self.attends:
            self.cross = CrossAttention(width, memory_width, heads, kv_heads, attention_dropout, *options)
            self.cross_norm = norm_of(norm_type, width)
        self.feedforward = FeedForward(width, ffn_width, activation, activation_dropout, bias)
        self.feedforward_norm = norm_of(norm_type, width)

    def _block(self, x: Tensor, norm: nn.Module, block, *args) -> Tensor:
        """Residual connection around `block`, the norm before or after it."""
        y = block(norm(x) if self.pre_norm else x, *args)
        x = x + dropout(y, self.dropout, self.training)
        return x if self.pre_norm else norm(x)

    def forward(self, *args) -> Tensor:
        """`decode` if the layer has cross-attention, otherwise `encode`. An update calls this method, and sharding,
        compilation and activation checkpointing wrap it (s2s/training/wrapping.py)."""
        return self.decode(*args) if self.attends else self.encode(*args)

    def encode(self, x: Tensor, mask: Tensor | None, real: RealTokens | None = None) -> Tensor:
        """The layer without cross-attention.

        Args:
            x: [B, S, D]; with `real`, [P, D].
            mask: Bool [B, 1, 1 or S, S], true at the keys that each query sees, or float [B, 1 or H, S, S], added to
                the logits; None: causal.
            real: The places of the tokens in their rows, if x has no padding.

        Returns:
            The shape of x.
        """
        x = self._block(x, self.attention_norm, self.attention, mask, real)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def decode(self, x: Tensor, mask: Tensor | None, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """The layer with cross-attention, for all target positions at once.

        Args:
            x: [B, T, D].
            mask: Bool [B, 1, T, T] or float [B, H, T, T], of self-attention; None: causal.
            memory: [B, S, D].
            memory_mask: Bool [B, 1, 1 or T, S], of cross-attention.

        Returns:
            [B, T, D]
        """
        x = self._block(x, self.attention_norm, self.attention, mask)
        x = self._block(x, self.cross_norm, self.cross, self.cross.keys_and_values(memory), memory_mask)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def cross_attention(self, x: Tensor, mask: Tensor | None, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """The cross-attention weights of `decode` for the same arguments: fp32 [B, H, T, S]."""
        x = self._block(x, self.attention_norm, self.attention, mask)
        x = self.cross_norm(x) if self.pre_norm else x
        return self.cross.weights(x, self.cross.project(memory), memory_mask)

    def step(self, x: Tensor, state, n: int) -> Tensor:
        """One position of every row: x [B, K, D]; state: of the decoder; n: number of this layer in it. Returns
        [B, K, D]."""
        x = self._block(x, self.attention_norm, self.attention.step, state, n)
        if self.attends:
            x = self._block(x, self.cross_norm, self.cross.step, state, n)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def outputs(self) -> list[nn.Linear]:
        """The linear maps at the end of each residual block."""
        return [self.attention.output, *([self.cross.output] if self.attends else []), self.feedforward.outer]
