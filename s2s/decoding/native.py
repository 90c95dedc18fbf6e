"""`decode.backend=native`: what lies between a step's matrix products in compiled kernels, for a CPU in fp32.

The same verbs and the same results, to rounding, as the classes in PyTorch operators from which these derive.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, N layers, G key/value heads, L places, d head width.
"""

import copy

import torch
from torch import Tensor

from s2s.decoding.choice import Beam, Choice
from s2s.decoding.limits import Limits
from s2s.decoding.packed import Int8Linear
from s2s.models.model import EncoderDecoder
from s2s.models.transformer import Transformer, TransformerState
from s2s.native.library import Unavailable, call, library
from s2s.nn.attention import SelfAttention, merged
from s2s.nn.slots import kept


def native(model: EncoderDecoder) -> EncoderDecoder:
    """A light copy of a model, packed already, that decodes with the kernels. Raises Unavailable."""
    if not isinstance(model, Transformer):
        raise Unavailable(f"there are none for a {type(model).__name__}")
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        raise Unavailable(f"they are for a CPU and fp32, not for {parameter.device.type} and {parameter.dtype}")
    library()
    model = copy.copy(model)
    model.State = NativeState
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.native = True
    return model


class NativeState(TransformerState):
    """State of a Transformer decoder in which no key or value ever moves: a table says whose they are.

    Attributes:
        cache: [N, 2, B, G, L, K, d], own keys and values, where each row has put them.
        history: [B, K, L] int32, the row of the same sentence that had each position of a row's hypothesis.
        lengths: [B] int64, real source positions.
    """

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int):
        super().__init__(key_values.contiguous(), mask, rows)
        self.history = torch.zeros(mask.size(0), rows, 0, dtype=torch.int32)
        self._count()

    def _count(self) -> None:
        self.lengths = self.mask.flatten(1).sum(1)

    def begin(self) -> None:
        """Make room for one more position of every row."""
        self.length = int(self.steps.max()) + 1
        N, _, B, G, _, d = self.key_values.shape
        size = self.history.size(2)
        if self.length > size:
            new = max(self.length, 2 * size, 32)
            cache = self.key_values.new_empty(N, 2, B, G, new, self.rows, d)
            history = torch.arange(self.rows, dtype=torch.int32)[:, None].repeat(B, 1, new)
            if size:
                cache[:, :, :, :, :size], history[:, :, :size] = self.cache, self.history
            self.cache, self.history = cache, history

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """As TransformerState.attend."""
        H, G = attention.heads, attention.kv_heads
        if attention.rotary:
            split = attention.split(qkv.flatten(0, 1)[:, None], self.positions.repeat_interleave(self.rows, 0))
            qkv = torch.cat([merged(part) for part in split], dim=2).view(qkv.shape)
        B, K, width = qkv.shape
        d = width // (H + 2 * G)
        out = qkv.new_empty(B, K, H * d)
        keys, values = self.cache[n]
        call("self_attention", qkv, keys, values, self.history, self.positions, out,
             B, K, H, G, d, self.history.size(2), self.length)  # fmt: skip
        return out

    def cross(self, n: int, query: Tensor, heads: int) -> Tensor:
        """As TransformerState.cross."""
        B, K, _ = query.shape
        _, _, _, G, S, d = self.key_values.shape
        keys, values = self.key_values[n]
        out = torch.empty_like(query)
        call("cross_attention", query, keys, values, self.lengths, out, B, K, heads, G, d, S)
        return out

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r]."""
        call("reorder", self.history, self.positions, parents, *self.history.shape)

    def admit(self, slots: Tensor, other: "NativeState", which: Tensor) -> None:
        """As TransformerState.admit."""
        super().admit(slots, other, which)
        self.history[slots] = torch.arange(self.rows, dtype=torch.int32)[:, None]
        self._count()

    def release(self, keep: Tensor, slots: int) -> None:
        """As TransformerState.release."""
        cache, self.cache = self.cache, self.key_values.new_empty(0)
        super().release(keep, slots)
        if cache.numel():
            self.cache = kept(cache, keep, slots, 2)
        self.history = kept(self.history, keep, slots)
        self._count()


class NativeBeam(Beam):
    """As Beam, from logits to choice in one pass."""

    def __call__(self, logits: Tensor, normalizer: None, scores: Tensor, limits: Limits) -> Choice:
        """logits: [R, V], unchanged; normalizer: is found here; scores: [B, K]."""
        B, K = scores.shape
        tokens = torch.empty(2, B, K, dtype=torch.int64)
        values = torch.empty(4, B, K)
        call("beam", logits, scores, limits.host.ctypes.data, limits.prefix, *tokens, *values,
             B, K, logits.size(1), limits.prefix.size(1), int(self.config.allow_unknown))  # fmt: skip
        return Choice(tokens[0], None if K == 1 else tokens[1], values[0], values[1], values[2], values[3])
