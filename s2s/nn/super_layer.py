"""A Transformer layer of which a part can be used, for `model.encoder=super` and `model.decoder=super`.

Shapes: B sentences, S source positions, K copies of each position (one for each encoder layer that the decoder may
see), T target positions, H heads, G key/value heads, d head width, D width.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from s2s.nn.attention import CrossAttention
from s2s.nn.elastic import SlicedLinear, narrow, narrow_heads, sliceable
from s2s.nn.layers import Layer


class SuperCross(CrossAttention):
    """Cross-attention that sees the first copies of each position only, with the first heads.

    Args:
        args: As in CrossAttention.
        copies: K.

    Attributes:
        used: Number of copies that are seen.
    """

    def __init__(self, *args, copies: int):
        super().__init__(*args)
        self.copies = self.used = copies
        self.room = self.kv_heads  # of a decoder's state

    def _first(self, x: Tensor, dim: int) -> Tensor:
        """The copies that are seen: dimension `dim` of size S*K becomes S*used."""
        if self.used == self.copies:
            return x
        return x.unflatten(dim, (-1, self.copies)).narrow(dim + 1, 0, self.used).flatten(dim, dim + 1)

    def _spread(self, x: Tensor, dim: int) -> Tensor:
        """Zeros at the copies that are not seen: dimension `dim` of size S*used becomes S*K."""
        if self.used == self.copies:
            return x
        x = x.unflatten(dim, (-1, self.used))
        return pad(x, (0, 0) * (x.dim() - dim - 2) + (0, self.copies - self.used)).flatten(dim, dim + 1)

    def project(self, memory: Tensor) -> Tensor:
        """memory: [B, S*K, D]. Returns keys and values [2, B, G, S*K, d], with zeros where the layer does not look."""
        projected = self._spread(super().project(self._first(memory, 1)), 3)
        return pad(projected, (0, 0, 0, 0, 0, self.room - self.kv_heads)) if self.kv_heads < self.room else projected

    def keys_and_values(self, memory: Tensor) -> Tensor:
        """As `project`."""
        return self.project(memory)

    def seen(self, key_value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """As in CrossAttention: [2, B, G', S*used, d] and [B, 1, 1 or T, S*used]."""
        return self._first(key_value[:, :, : self.kv_heads], 3), self._first(mask, 3)

    def forward(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """As in CrossAttention."""
        return super().forward(x, *self.seen(key_value, mask))

    def weights(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """As in CrossAttention: [B, H, T, S*K]."""
        return self._spread(super().weights(x, *self.seen(key_value, mask)), 3)

    def step(self, x: Tensor, state, n: int) -> Tensor:
        """As in CrossAttention."""
        return self.output(state.cross(n, self._query(x, self._first(state.mask, 3)), self))


class SuperLayer(Layer):
    """A Transformer layer of which training uses a part.

    Args:
        args, options: As in Layer.
        copies: K.

    Attributes:
        whole: The arguments of `use` for the whole layer.
        skipped: Whether training leaves the layer out.
    """

    skipped = False

    def __init__(self, *args, copies: int = 1, **options):
        super().__init__(*args, **options)
        attention = self.attention
        self.group, self.head = attention.heads // attention.kv_heads, attention.sizes[0] // attention.heads
        sliceable(self.feedforward, "inner", "outer")
        sliceable(attention, "qkv", "output")
        if self.attends:
            cross = self.cross
            self.cross = SuperCross(cross.query.in_features, cross.key_value.in_features, cross.heads, cross.kv_heads,
                                    cross.dropout, cross.log_length, copies=copies)  # fmt: skip
            sliceable(self.cross, "query", "key_value", "output")
        self.whole = (self.feedforward.outer.in_features, attention.heads, attention.heads, copies)

    def use(self, ffn_width: int, heads: int, cross_heads: int, copies: int) -> None:
        """Use a part of the layer.

        Args:
            ffn_width: Inner width of the feed-forward block.
            heads: Heads of self-attention.
            cross_heads: Heads of cross-attention.
            copies: Copies of each source position that cross-attention sees.
        """
        narrow(self.feedforward, ffn_width)
        narrow_heads(self.attention, heads, self.group, self.head)
        if self.attends:
            narrow_heads(self.cross, cross_heads, self.group, self.head)
            self.cross.used = copies

    def train(self, mode: bool = True) -> "SuperLayer":
        """In evaluation the whole layer is used."""
        if not mode and isinstance(self.feedforward.inner, SlicedLinear):  # not one that is cut
            self.use(*self.whole)
        return super().train(mode)

    def forward(self, *args) -> Tensor:
        """As in Layer. A layer that is left out gives its parameters gradients of 0, as several processes need it."""
        if self.skipped and self.training:
            return args[0] + torch.stack([p.flatten()[:0].sum() for p in self.parameters()]).sum()
        return super().forward(*args)
