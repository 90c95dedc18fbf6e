"""The Transformer's layer, for encoders and decoders.

Shapes: B sentences, S source positions, T target positions, P real tokens of all rows, K rows a sentence, D width, H
heads, d head width.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.nn.attention import CrossAttention, SelfAttention
from s2s.nn.dropout import dropout
from s2s.nn.feedforward import FeedForward
from s2s.nn.unpad import RealTokens


@dataclasses.dataclass
class LayerConfig:
    """Options of the Transformer's layer, beside those of its stack."""

    type: str = option("transformer", "component")


class Layer(nn.Module):
    """Blocks with a residual connection and a norm each: self-attention, with `memory_width` attention to a memory, and
    a feed-forward block (Vaswani et al. 2017; with grouped heads, Ainslie et al. 2023).

    Args:
        width: D.
        heads: H; divides D.
        kv_heads: Heads of keys and values; divides H.
        ffn_width: Inner width of the feed-forward block.
        activation: Of the feed-forward block, as there.
        pre_norm: Normalise before each block, else after it.
        rotary: Queries and keys of self-attention turn with their positions.
        causal: A position sees those up to its own, unless a mask says otherwise.
        memory_width: D of the memory that it attends to; None: to none.
        dropout: Probability of dropping a component of a block's output.
        attention_dropout: Of dropping an attention weight.
        activation_dropout: Of dropping an inner state of the feed-forward block.
        log_length: Attention is scaled by the logarithm of the number of keys.
    """

    Config = LayerConfig
    norms = ("pre", "post")
    convolves = False  # has an argument `causal` in an encoder, too
    unpads = True  # an encoder may hand it real tokens only
    segmented = True  # it keeps the examples of a packed row apart, as its mask says

    def __init__(self, width: int, heads: int, kv_heads: int, ffn_width: int, *, activation: str, pre_norm: bool,
                 rotary: bool, causal: bool = False, memory_width: int | None = None, dropout: float = 0.0,
                 attention_dropout: float = 0.0, activation_dropout: float = 0.0,
                 log_length: bool = False):  # fmt: skip
        super().__init__()
        self.pre_norm, self.dropout = pre_norm, dropout
        self.attention = SelfAttention(width, heads, kv_heads, attention_dropout, causal, rotary, log_length)
        self.attention_norm = nn.LayerNorm(width)
        self.attends = memory_width is not None
        if self.attends:
            self.cross = CrossAttention(width, memory_width, heads, kv_heads, attention_dropout, log_length)
            self.cross_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, ffn_width, activation, activation_dropout)
        self.feedforward_norm = nn.LayerNorm(width)

    def _block(self, x: Tensor, norm: nn.LayerNorm, block, *args) -> Tensor:
        """Residual connection around `block`, the norm before or after it."""
        y = block(norm(x) if self.pre_norm else x, *args)
        x = x + dropout(y, self.dropout, self.training)
        return x if self.pre_norm else norm(x)

    def forward(self, *args) -> Tensor:
        """`decode` where it attends to a memory, else `encode`: what an update calls, so what is sharded, compiled or
        computed twice (s2s/training/wrapping.py)."""
        return self.decode(*args) if self.attends else self.encode(*args)

    def encode(self, x: Tensor, mask: Tensor | None, real: RealTokens | None = None) -> Tensor:
        """x: [B, S, D], or with `real` [P, D]; mask: bool [B, 1, 1 or S, S], true at the keys of each query; None:
        causal."""
        x = self._block(x, self.attention_norm, self.attention, mask, real)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def decode(self, x: Tensor, mask: Tensor | None, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """x: [B, T, D], all target positions at once; mask: bool [B, 1, T, T], None: causal; memory: [B, S, D];
        memory_mask: bool [B, 1, 1 or T, S]."""
        x = self._block(x, self.attention_norm, self.attention, mask)
        x = self._block(x, self.cross_norm, self.cross, self.cross.project(memory), memory_mask)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def cross_attention(self, x: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """As `decode` as far as the attention to the memory, of which these are the weights: fp32 [B, H, T, S]."""
        x = self._block(x, self.attention_norm, self.attention, None)
        x = self.cross_norm(x) if self.pre_norm else x
        return self.cross.weights(x, self.cross.project(memory), memory_mask)

    def step(self, x: Tensor, state, n: int) -> Tensor:
        """x: [B, K, D], the states of one position of every row; this is layer n of a state's."""
        x = self._block(x, self.attention_norm, self.attention.step, state, n)
        if self.attends:
            x = self._block(x, self.cross_norm, self.cross.step, state, n)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def outputs(self) -> list[nn.Linear]:
        """The linear maps whose results are added to the states."""
        return [self.attention.output, *([self.cross.output] if self.attends else []), self.feedforward.outer]
