"""State of a Transformer decoder between steps: keys and values.

Shapes: B sentences, K rows a sentence, R = B*K, T positions of a block, S source positions, N layers, H heads, G
key/value heads, L places, d head width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from s2s.nn.attention import SelfAttention, attend, heads_of, merged
from s2s.nn.log_length import log_length
from s2s.nn.slots import kept


class TransformerState:
    """Keys and values of a Transformer decoder: its own for each row, cross-attention's for each sentence.

    Every sentence has its own position, so that one can take the place of another.

    Args:
        key_values: [N, 2, B, G, S, d] of cross-attention.
        mask: Bool [B, 1, 1, S], true at real source positions.
        rows: K.
        most: The learned positions that there are; None: no bound.

    Attributes:
        cache: [N, 2, R, G, L, d], own keys and values; L doubles when needed, from 32.
        steps: [B] positions done of each sentence, on the host.
        positions: [B, 1] the same on the device.
        attention: How queries attend to keys and values, as `attend`.
    """

    attention = staticmethod(attend)

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int, most: int | None = None):
        self.key_values, self.mask, self.rows, self.most = key_values, mask, rows, most
        self.cache = key_values.new_empty(0)  # made when the first step is taken
        self.steps = np.zeros(mask.size(0), np.int64)
        self.positions = torch.zeros(mask.size(0), 1, dtype=torch.int64, device=mask.device)

    def empty(self, slots: int) -> "TransformerState":
        """A state like this one with places for so many sentences, all of them free."""
        state = type(self)(self.key_values[:, :, :0], self.mask[:0], self.rows, self.most)
        state.release(torch.arange(0, device=self.mask.device), slots)
        return state

    def begin(self) -> None:
        """Make room for one more position of every row."""
        self._bound()
        self.length = int(self.steps.max()) + 1
        G, d = self._grow()
        # With all sentences at one position, that is where to write, and everything before it is seen.
        self.place, self.seen = self.length - 1, None
        if self.steps.min() < self.place:
            positions = self.positions.repeat_interleave(self.rows, 0)  # [R, 1]
            self.place = positions[:, :, None, None].expand(-1, G, 1, d)
            self.seen = (torch.arange(self.length, device=positions.device) <= positions)[:, None, None]

    def _bound(self) -> None:
        """A place that is free, or whose sentence is done and not yet taken out, counts on, but not past the last
        learned position."""
        if self.most is not None and self.steps.max() >= self.most:
            np.minimum(self.steps, self.most - 1, out=self.steps)
            self.positions.clamp_(max=self.most - 1)

    def _grow(self) -> tuple[int, int]:
        """Have the cache hold `length` positions; returns G and d."""
        N, _, B, G, _, d = self.key_values.shape
        if not self.cache.numel():  # zeros: what is not seen counts nothing only if it is finite
            self.cache = self.key_values.new_zeros(N, 2, B * self.rows, G, 32, d)
        size = self.cache.size(4)
        if self.length > size:
            cache = self.cache.new_zeros(*self.cache.shape[:4], max(self.length, 2 * size), d)
            cache[:, :, :, :, :size] = self.cache
            self.cache = cache
        return G, d

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """Layer n's attention to a row's own positions, this one included: qkv [B, K, (H + 2G) * d], from which
        `attention` splits queries, keys and values. Returns [B, K, H * d]."""
        positions = self.positions.repeat_interleave(self.rows, 0) if attention.rotary else None
        q, k, v = attention.split(qkv.flatten(0, 1)[:, None], positions)
        if attention.log_length:
            q = log_length(q, 1 + self.positions.repeat_interleave(self.rows, 0)[:, :, None, None])
        keys, values = self.cache[n, 0], self.cache[n, 1]
        if self.seen is None:
            keys[:, :, self.place], values[:, :, self.place] = k[:, :, 0], v[:, :, 0]
        else:
            keys.scatter_(2, self.place, k.to(keys.dtype))
            values.scatter_(2, self.place, v.to(values.dtype))
        y = self.attention(q, keys[:, :, : self.length], values[:, :, : self.length], self.seen)
        return merged(y).view(-1, self.rows, y.size(1) * y.size(3))

    def cross(self, n: int, query: Tensor, heads: int) -> Tensor:
        """Layer n's attention to the source: query [B, K, H * d]. Returns [B, K, H * d]."""
        q = heads_of(query, heads)
        mask = self.mask.expand(-1, -1, q.size(2), -1)
        return merged(self.attention(q, self.key_values[n, 0], self.key_values[n, 1], mask))

    def advance(self) -> None:
        """A position is done."""
        self.steps += 1
        self.positions += 1

    def rewind(self, counts: Tensor) -> None:
        """Each sentence takes back so many of its last positions; counts: [B] int64."""
        self.steps -= counts.cpu().numpy()
        self.positions -= counts[:, None]

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r]; one gather over all layers."""
        used = self.cache[:, :, :, :, : self.length]
        used.copy_(used.index_select(2, parents))

    def admit(self, slots: Tensor, other: "TransformerState", which: Tensor) -> None:
        """Sentences `which` of another state, fresh from `start`, take these places."""
        size, wanted = self.key_values.size(4), other.key_values.size(4)
        if wanted > size:
            self.key_values = nn.functional.pad(self.key_values, (0, 0, 0, wanted - size))
            self.mask = nn.functional.pad(self.mask, (0, wanted - size))
        self._forget(slots)
        self.key_values[:, :, :, :, :wanted].index_copy_(2, slots, other.key_values.index_select(2, which))
        self.mask[slots] = nn.functional.pad(other.mask[which], (0, self.mask.size(3) - wanted))
        self.steps[slots.cpu().numpy()] = 0
        self.positions[slots] = 0

    def _forget(self, slots: Tensor) -> None:
        """Nothing of who was in these places is left: what is not seen counts nothing only if it is finite."""
        self.key_values.index_fill_(2, slots, 0)
        if self.cache.numel():
            rows = slots[:, None] * self.rows + torch.arange(self.rows, device=slots.device)
            self.cache.index_fill_(2, rows.flatten(), 0)

    def free(self, slots: Tensor) -> None:
        """These places are free, and begin anew."""
        self.steps[slots.cpu().numpy()] = 0
        self.positions[slots] = 0

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these sentences as the first of `slots` ones; the other places are free."""
        first = keep[:, None] * self.rows
        rows = (first + torch.arange(self.rows, device=keep.device)).flatten()
        if self.cache.numel():
            self.cache = kept(self.cache[:, :, :, :, : self._needed(keep)], rows, slots * self.rows, 2)
        size = max(1, int(self.mask[keep].flatten(1).sum(1).amax())) if len(keep) else 1
        self.key_values = kept(self.key_values[:, :, :, :, :size], keep, slots, 2)
        self.mask = kept(self.mask[:, :, :, :size], keep, slots)
        self.mask[len(keep) :, :, :, 0] = True  # a free place sees something, whatever it is
        steps = self.steps[keep.cpu().numpy()]
        self.steps = np.append(steps, np.zeros(slots - len(steps), np.int64))
        self.positions = kept(self.positions, keep, slots)

    def _needed(self, keep: Tensor) -> int:
        """Own positions that there must be for these sentences, some to come among them."""
        return max(32, 1 << int(self.steps[keep.cpu().numpy()].max(initial=0)).bit_length())

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (self.cache, self.key_values, self.mask))


class BlockState(TransformerState):
    """State of one hypothesis a sentence that advances by T positions at once; what proves wrong is taken back.

    The layers see T rows of a sentence, as if they were K; that each row sees the ones before it is known only here.
    """

    def begin(self, width: int) -> None:
        """Make room for `width` more positions, T."""
        self.length = int(self.steps.max()) + width
        self._grow()
        device = self.positions.device
        self.places = self.positions + torch.arange(width, device=device)  # [B, T]
        self.seen = (torch.arange(self.length, device=device) <= self.places[:, :, None])[:, None]

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """As TransformerState.attend: qkv [B, T, (H + 2G) * d]. Returns [B, T, H * d]."""
        q, k, v = attention.split(qkv, self.places)
        if attention.log_length:
            q = log_length(q, 1 + self.places[:, None, :, None])
        keys, values = self.cache[n, 0], self.cache[n, 1]
        place = self.places[:, None, :, None].expand(k.shape)
        keys.scatter_(2, place, k.to(keys.dtype))
        values.scatter_(2, place, v.to(values.dtype))
        return merged(attend(q, keys[:, :, : self.length], values[:, :, : self.length], self.seen))

    def advance(self) -> None:
        """The positions are done."""
        self.steps += self.places.size(1)
        self.positions += self.places.size(1)
