"""Multi-head attention for whole sequences and for one decoder step, with grouped key/value heads.

Shapes: B sentences, S source positions, T target positions, P real tokens of all rows, K rows a sentence, R = B*K rows,
D model width, H query heads, G key/value heads (G divides H; G = 1 is multi-query attention), d head width, D/H by
default.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from s2s.nn.log_length import log_length
from s2s.nn.positions import rotate
from s2s.nn.unpad import RealTokens


def heads_of(x: Tensor, heads: int) -> Tensor:
    """[B, T, H*d] -> [B, H, T, d]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    """[B, H, T, d] -> [B, T, H*d]"""
    return x.transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0, causal: bool = False) -> Tensor:
    """Softmax attention; q: [B, H, T, d], k and v: [B, G, S, d], mask: bool, or float to be added to logits,
    broadcastable to [B, H, T, S]."""
    grouped = q.size(1) != k.size(1)
    if q.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
        # PyTorch's bf16 attention on a CPU is several times slower backward than its fp32 one.
        with torch.autocast("cpu", enabled=False):
            q, k, v = q.float(), k.float(), v.float()
            return scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=grouped)
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    return scaled_dot_product_attention(q, k, v, mask, dropout, causal, enable_gqa=grouped)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as numbers to be added to logits: 0 where it is true, -inf elsewhere. Attention makes them of a bool
    mask in each call; made once, they serve all layers."""
    return mask.to(dtype).log_()


def prepared(mask: Tensor, q: Tensor) -> Tensor:
    """A mask as attention takes it: on a GPU as numbers in the type of the queries, which stay with the mask for the
    layers that follow."""
    if mask.is_floating_point() or q.device.type == "cpu" or torch.compiler.is_compiling():
        return mask
    numbers = getattr(mask, "numbers", None)
    if numbers is None or numbers.dtype != q.dtype:
        numbers = mask.numbers = additive(mask, q.dtype)  # type: ignore[attr-defined]
    return numbers


class SelfAttention(nn.Module):
    """Self-attention with one fused product for queries, keys and values.

    Args:
        width: D.
        heads: H; divides D.
        kv_heads: G; divides H.
        dropout: Probability of dropping an attention weight.
        causal: Position t sees positions up to t only, unless a mask says otherwise.
        rotary: Rotate queries and keys by their positions.
        log_length: Scale logits by the logarithm of the number of keys (s2s/nn/log_length.py).
        head_width: d; None: D / H.
        bias: Whether the linear maps have biases.
        scaled: Whether logits are divided by sqrt(d).
    """

    def __init__(self, width: int, heads: int, kv_heads: int, dropout: float, causal: bool, rotary: bool,
                 log_length: bool = False, head_width: int | None = None, bias: bool = True,
                 scaled: bool = True):  # fmt: skip
        super().__init__()
        self.log_length = log_length
        self.heads, self.kv_heads, self.dropout = heads, kv_heads, dropout
        self.causal, self.rotary = causal, rotary
        head = head_width or width // heads
        self.scale = None if scaled else head**0.5  # of queries; it undoes the division by sqrt(d)
        self.sizes = [heads * head, kv_heads * head, kv_heads * head]
        self.qkv = nn.Linear(width, sum(self.sizes), bias=bias)
        self.output = nn.Linear(heads * head, width, bias=bias)

    varlen = True  # PyTorch's attention over sequences of any lengths may compute it

    def split(self, qkv: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Split the result of the fused product, [B, T, (H + 2G) * d].

        Args:
            qkv: That result.
            positions: [B, T], for rotary positions; None: 0, 1 ...

        Returns:
            Queries [B, H, T, d], keys and values [B, G, T, d].
        """
        if self.rotary:  # queries and keys at once: they turn by the same angles
            heads = [self.heads, self.kv_heads]
            both, v = qkv.split([sum(self.sizes[:2]), self.sizes[2]], dim=-1)
            q, k = rotate(heads_of(both, sum(heads)), positions).split(heads, dim=1)
            return self._scaled(q), k, heads_of(v, self.kv_heads)
        q, k, v = qkv.split(self.sizes, dim=-1)
        return self._scaled(heads_of(q, self.heads)), heads_of(k, self.kv_heads), heads_of(v, self.kv_heads)

    def split_in_two(self, qkv: Tensor) -> tuple[Tensor, Tensor]:
        """As `split`, without rotary positions: queries, and keys and values as one view [2, B, G, T, d]."""
        q, both = qkv.split([self.sizes[0], sum(self.sizes[1:])], dim=-1)
        return self._scaled(heads_of(q, self.heads)), both.unflatten(-1, (2, self.kv_heads, -1)).permute(2, 0, 3, 1, 4)

    def _scaled(self, q: Tensor) -> Tensor:
        return q if self.scale is None else q * self.scale

    def forward(self, x: Tensor, mask: Tensor | None = None, real: RealTokens | None = None) -> Tensor:
        """Attention over whole sequences.

        Args:
            x: [B, T, D]; with `real`, [P, D].
            mask: Bool [B, 1, 1 or T, T], true where a query may see a key, or float [B, 1 or H, T, T], added to the
                logits; it replaces the causal mask. Causal attention over right-padded rows needs none, because no
                real position sees padding.
            real: The places of the tokens in their rows, if x has no padding.

        Returns:
            The shape of x.
        """
        qkv = self.qkv(x)
        return self.output(self.attend(qkv, mask) if real is None else real.attend(qkv, self, mask))

    def attend(self, qkv: Tensor, mask: Tensor | None) -> Tensor:
        """Attention after the fused product and before the output map: qkv [B, T, (H + 2G) * d], mask as in `forward`.
        Returns [B, T, H * d]."""
        q, k, v = self.split(qkv)
        causal = self.causal and mask is None
        if self.log_length:
            T, device = q.size(2), q.device
            all_keys = torch.arange(1, T + 1, device=device)[:, None] if causal else torch.full((1,), T, device=device)
            q = log_length(q, all_keys if mask is None else mask)
        mask = None if mask is None else prepared(mask, q)
        return merged(attend(q, k, v, mask, self.dropout if self.training else 0.0, causal))

    def step(self, x: Tensor, state, n: int) -> Tensor:
        """Attention of one position of every row.

        Args:
            x: [B, K, D].
            state: Holds the keys and values of the earlier positions; those of this position are added.
            n: Number of the layer in the state.

        Returns:
            [B, K, D]
        """
        return self.output(state.attend(n, self.qkv(x), self))


class CrossAttention(nn.Module):
    """Cross-attention of the decoder to the encoder states. Keys and values are computed once for each sentence.

    Args:
        width: D of the decoder.
        memory_width: D of the encoder.
        heads, kv_heads, dropout, log_length, head_width, bias, scaled: As in SelfAttention.
    """

    def __init__(self, width: int, memory_width: int, heads: int, kv_heads: int, dropout: float,
                 log_length: bool = False, head_width: int | None = None, bias: bool = True,
                 scaled: bool = True):  # fmt: skip
        super().__init__()
        self.log_length = log_length
        self.heads, self.kv_heads, self.dropout = heads, kv_heads, dropout
        head = head_width or width // heads
        self.scale = None if scaled else head**0.5
        self.query = nn.Linear(width, heads * head, bias=bias)
        self.key_value = nn.Linear(memory_width, 2 * kv_heads * head, bias=bias)
        self.output = nn.Linear(heads * head, width, bias=bias)

    def project(self, memory: Tensor) -> Tensor:
        """memory: [B, S, D_encoder]. Returns keys and values [2, B, G, S, d]."""
        return self.key_value(memory).unflatten(-1, (2, self.kv_heads, -1)).permute(2, 0, 3, 1, 4)

    def keys_and_values(self, memory: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """As `project`, for `forward`: as two views, whose gradients are joined without a copy of each."""
        keys, values = self.key_value(memory).chunk(2, dim=-1)
        return heads_of(keys, self.kv_heads), heads_of(values, self.kv_heads)

    def forward(self, x: Tensor, key_value: Tensor | tuple[Tensor, Tensor], mask: Tensor) -> Tensor:
        """x: [B, T, D]; key_value: [2, B, G, S, d], or a pair [B, G, S, d]; mask: bool [B, 1, 1 or T, S], true where a
        position may be seen. Returns [B, T, D]."""
        q = heads_of(self._query(x, mask), self.heads)
        mask = prepared(mask, q).expand(-1, -1, x.size(1), -1)
        attended = attend(q, key_value[0], key_value[1], mask, self.dropout if self.training else 0.0)
        return self.output(merged(attended))

    def weights(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """The attention weights of `forward` for the same arguments: fp32 [B, H, T, S]."""
        keys = key_value[0]  # [B, G, S, d]
        q = self._query(x, mask).unflatten(-1, (self.kv_heads, -1, keys.size(-1)))  # [B, T, G, H/G, d]
        scores = torch.einsum("btghd,bgsd->bghts", q, keys).flatten(1, 2).float() / keys.size(-1) ** 0.5
        return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)

    def step(self, x: Tensor, state, n: int) -> Tensor:
        """Attention of one position of every row to the source.

        Args:
            x: [B, K, D].
            state: Holds the keys and values of the source, once for all K rows of a sentence.
            n: Number of the layer in the state.

        Returns:
            [B, K, D]
        """
        return self.output(state.cross(n, self._query(x, state.mask), self))

    def seen(self, key_value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values that this layer sees of those in a state, and their mask; shapes as in `forward`."""
        return key_value, mask

    def _query(self, x: Tensor, mask: Tensor) -> Tensor:
        """Queries [B, T, H * d]; mask: [B, 1, 1 or T, S], the keys that each query sees."""
        q = self.query(x)
        q = q if self.scale is None else q * self.scale
        return log_length(q[:, None], mask)[:, 0] if self.log_length else q


def length_mask(lengths: Tensor, size: int) -> Tensor:
    """Bool [B, 1, 1, size], true at positions below each row's length; lengths: [B]."""
    return (torch.arange(size, device=lengths.device) < lengths[:, None])[:, None, None]


def context_mask(keys: Tensor, chunk: int, left: int | None, right: int) -> Tensor:
    """Mask of limited context: a position sees its own chunk, and a number of positions before and after the chunk.

    Args:
        keys: Bool [B, 1, 1, S], true at real positions.
        chunk: Size of a chunk; the first chunk begins at position 0. 1: a window around each position.
        left: Number of visible positions before the chunk; None: all.
        right: Number of visible positions after the chunk.

    Returns:
        Bool [B, 1, S, S], true where a query (a row) may see a key. A query at padding sees all real keys.
    """
    place = torch.arange(keys.size(3), device=keys.device)
    first = (place // chunk * chunk)[:, None]  # of each query's chunk
    seen = place < first + chunk + right
    if left is not None:
        seen &= place >= first - left
    return keys & (seen | ~keys.transpose(2, 3))


def segment_mask(queries: Tensor, keys: Tensor) -> Tensor:
    """Bool [B, 1, T, S], true where query and key are of one segment; queries: [B, T], keys: [B, S] segment numbers."""
    return (queries[:, :, None] == keys[:, None])[:, None]
