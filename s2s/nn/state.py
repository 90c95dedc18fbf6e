"""State of a Transformer decoder between steps: keys and values.

Shapes: B sentences, K rows a sentence, R = B*K, T positions of a block, S source positions, N layers, H heads, G
key/value heads, L places, d head width.
"""

import numpy as np
import torch
from torch import Tensor, nn

from s2s.nn.attention import CrossAttention, SelfAttention, additive, attend, heads_of, merged
from s2s.nn.log_length import log_length
from s2s.nn.slots import kept


class TransformerState:
    """Keys and values of a Transformer decoder: those of self-attention for each row, and those of cross-attention for
    each sentence.

    Each sentence has its own position, so that a new sentence can replace one that is finished.

    Args:
        key_values: [N, 2, B, G, S, d], keys and values of cross-attention.
        mask: Bool [B, 1, 1, S], true at real source positions.
        rows: K.
        most: Number of learned positions; None: no limit.

    Attributes:
        cache: [N, 2, R, G, L, d], keys and values of self-attention; L is 32 initially and doubles when needed.
        steps: [B], number of finished positions of each sentence, on the host.
        positions: [B, 1], the same on the device.
        attention: The attention function, with the arguments of `attend`.
        spare: Another cache, into which `reorder` copies; the two then change places. Without beams there is none.
        seen: Bool [R, 1, 1, length], true at the positions that each row sees in this step; None: it sees all.
        added, cross_added: `seen` and `mask` as numbers, once a layer has needed them. A decoder with a relative
            position bias sets `added` after `begin`, float [1 or R, H, 1, length].
    """

    attention = staticmethod(attend)

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int, most: int | None = None):
        self.key_values, self.mask, self.rows, self.most = key_values, mask, rows, most
        self.cache = self.spare = key_values.new_empty(0)  # made when the first step is taken
        self.steps = np.zeros(mask.size(0), np.int64)
        self.positions = torch.zeros(mask.size(0), 1, dtype=torch.int64, device=mask.device)
        self.seen: Tensor | None = None
        self.added: Tensor | None = None
        self.cross_added: Tensor | None = None
        self.of_rows: Tensor | None = None

    def empty(self, slots: int) -> "TransformerState":
        """A state of the same kind with `slots` places for sentences, all free."""
        state = type(self)(self.key_values[:, :, :0], self.mask[:0], self.rows, self.most)
        state.release(torch.arange(0, device=self.mask.device), slots)
        return state

    def queries(self) -> Tensor:
        """The places of this step's queries, [1 or R, 1]: those of all rows, or one that they share."""
        return self.positions[:1] if self.seen is None else self._row_positions()

    def begin(self) -> None:
        """Prepare a step: make room for one more position of every row."""
        self._bound()
        self.length = int(self.steps.max()) + 1
        G, d = self._grow()
        # If all sentences are at one position, there is one place to write, and no mask is needed.
        self.place, self.seen, self.added, self.of_rows = self.length - 1, None, None, None
        if self.steps.min() < self.place:
            positions = self._row_positions()
            self.place = positions[:, :, None, None].expand(-1, G, 1, d)
            self.seen = (torch.arange(self.length, device=positions.device) <= positions)[:, None, None]

    def _row_positions(self) -> Tensor:
        """The place of each row's query in this step, [R, 1]; made once for all layers."""
        if self.of_rows is None:
            self.of_rows = self.positions.repeat_interleave(self.rows, 0)
        return self.of_rows

    def _bound(self) -> None:
        """Hold places that are free, or finished and not yet removed, at the last learned position."""
        if self.most is not None and self.steps.max() >= self.most:
            np.minimum(self.steps, self.most - 1, out=self.steps)
            self.positions.clamp_(max=self.most - 1)

    def _grow(self) -> tuple[int, int]:
        """Extend the cache to `length` positions; returns G and d."""
        N, _, B, G, _, d = self.key_values.shape
        if not self.cache.numel():  # zeros: a masked value adds nothing only if it is finite
            self.cache = self.key_values.new_zeros(N, 2, B * self.rows, G, 32, d)
        size = self.cache.size(4)
        if self.length > size:
            cache = self.cache.new_zeros(*self.cache.shape[:4], max(self.length, 2 * size), d)
            cache[:, :, :, :, :size] = self.cache
            self.cache = cache
        return G, d

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """Self-attention of layer n at one position of every row.

        Args:
            n: Number of the layer.
            qkv: [B, K, (H + 2G) * d], queries, keys and values of this position; the keys and values are added to the
                cache.
            attention: The module that splits `qkv`.

        Returns:
            [B, K, H * d]
        """
        q = self.write(n, qkv, attention)
        keys, values = self._kept(n, attention)
        if self.added is None and self.seen is not None:
            self.added = self._added(self.seen, q)
        y = self.attention(q, keys[:, :, : self.length], values[:, :, : self.length], self.added)
        return merged(y).view(-1, self.rows, y.size(1) * y.size(3))

    def write(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """Add keys and values of this position of every row to the cache; arguments as in `attend`. Returns queries
        [R, H, 1, d]."""
        held, qkv = self.cache[n, :, :, : attention.kv_heads], qkv.flatten(0, 1)[:, None]
        if attention.rotary:
            q, *new = attention.split(qkv, self._row_positions())
            places = zip(held, new, strict=True)
        else:  # keys and values are written together
            q, both = attention.split_in_two(qkv)
            places = [(held, both)]
        for old, new in places:
            if self.seen is None:
                old[..., self.place, :] = new[..., 0, :]
            else:
                old.scatter_(-2, self.place[:, : new.size(-3)].expand(new.shape), new.to(old.dtype))
        return log_length(q, 1 + self._row_positions()[:, :, None, None]) if attention.log_length else q

    def _kept(self, n: int, attention: SelfAttention) -> tuple[Tensor, Tensor]:
        """Keys and values of layer n in the cache, [R, G, L, d]; a layer may have fewer heads than others."""
        return self.cache[n, 0, :, : attention.kv_heads], self.cache[n, 1, :, : attention.kv_heads]

    def cross(self, n: int, query: Tensor, attention: CrossAttention) -> Tensor:
        """Cross-attention of layer n: query [B, K, H * d]; attention: the layer's module. Returns [B, K, H * d]."""
        q = heads_of(query, attention.heads)
        if self.cross_added is None:
            self.cross_added = self._added(self.mask, q)
        key_values, mask = attention.seen(self.key_values[n], self.cross_added)
        return merged(self.attention(q, key_values[0], key_values[1], mask.expand(-1, -1, q.size(2), -1)))

    def _added(self, mask: Tensor, q: Tensor) -> Tensor:
        """A mask as the attention function takes it fastest."""
        return additive(mask, q.dtype) if self.attention is attend else mask

    def advance(self) -> None:
        """End a step."""
        self.steps += 1
        self.positions += 1

    def rewind(self, counts: Tensor) -> None:
        """Drop the last counts[b] positions of each sentence b; counts: [B] int64."""
        self.steps -= counts.cpu().numpy()
        self.positions -= counts[:, None]

    def reorder(self, parents: Tensor) -> None:
        """Row r continues row parents[r]; one gather over all layers, from one cache into another."""
        if self.spare.shape != self.cache.shape:
            self.spare = torch.zeros_like(self.cache)
        old, new = (cache[:, :, :, :, : self.length] for cache in (self.cache, self.spare))
        torch.index_select(old, 2, parents, out=new)
        self.cache, self.spare = self.spare, self.cache

    def admit(self, slots: Tensor, other: "TransformerState", which: Tensor) -> None:
        """Put sentences `which` of a state that `start` has just returned into the places `slots`."""
        size, wanted = self.key_values.size(4), other.key_values.size(4)
        if wanted > size:
            self.key_values = nn.functional.pad(self.key_values, (0, 0, 0, wanted - size))
            self.mask = nn.functional.pad(self.mask, (0, wanted - size))
        self.cross_added = None
        self._forget(slots)
        self.key_values[:, :, :, :, :wanted].index_copy_(2, slots, other.key_values.index_select(2, which))
        self.mask[slots] = nn.functional.pad(other.mask[which], (0, self.mask.size(3) - wanted))
        self.steps[slots.cpu().numpy()] = 0
        self.positions[slots] = 0

    def _forget(self, slots: Tensor) -> None:
        """Zero the tensors of places: a masked value of an earlier sentence adds nothing only if it is finite."""
        self.key_values.index_fill_(2, slots, 0)
        if self.cache.numel():
            rows = slots[:, None] * self.rows + torch.arange(self.rows, device=slots.device)
            for cache in (self.cache, self.spare)[: 1 + bool(self.spare.numel())]:
                cache.index_fill_(2, rows.flatten(), 0)

    def free(self, slots: Tensor) -> None:
        """Mark places as free, and set their positions to 0."""
        self.steps[slots.cpu().numpy()] = 0
        self.positions[slots] = 0

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep sentences `keep` as the first of `slots` places, and free the other places."""
        self.cross_added = None
        first = keep[:, None] * self.rows
        rows = (first + torch.arange(self.rows, device=keep.device)).flatten()
        if self.cache.numel():
            self.cache = kept(self.cache[:, :, :, :, : self._needed(keep)], rows, slots * self.rows, 2)
            self.spare = self.cache.new_empty(0)
        size = max(1, int(self.mask[keep].flatten(1).sum(1).amax())) if len(keep) else 1
        self.key_values = kept(self.key_values[:, :, :, :, :size], keep, slots, 2)
        self.mask = kept(self.mask[:, :, :, :size], keep, slots)
        self.mask[len(keep) :, :, :, 0] = True  # a free place needs one visible position: a softmax over none is NaN
        steps = self.steps[keep.cpu().numpy()]
        self.steps = np.append(steps, np.zeros(slots - len(steps), np.int64))
        self.positions = kept(self.positions, keep, slots)

    def _needed(self, keep: Tensor) -> int:
        """Size of the cache in positions for sentences `keep`, with room for further steps."""
        return max(32, 1 << int(self.steps[keep.cpu().numpy()].max(initial=0)).bit_length())

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (self.cache, self.spare, self.key_values, self.mask))


class BlockState(TransformerState):
    """State of one hypothesis a sentence that advances by T positions at once; `rewind` drops rejected positions.

    The layers treat the T positions of a sentence like K rows. Only this state lets each position see those before it.
    """

    def begin(self, width: int) -> None:
        """Prepare a step: make room for `width` more positions, T."""
        self.length = int(self.steps.max()) + width
        self._grow()
        self.added, device = None, self.positions.device
        self.places = self.positions + torch.arange(width, device=device)  # [B, T]
        self.seen = (torch.arange(self.length, device=device) <= self.places[:, :, None])[:, None]

    def queries(self) -> Tensor:
        """The places of this step's queries, [B, T]."""
        return self.places

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """TransformerState.attend at T positions: qkv [B, T, (H + 2G) * d]. Returns [B, T, H * d]."""
        q = self.write(n, qkv, attention)
        keys, values = self._kept(n, attention)
        seen = self.seen if self.added is None else self.added
        return merged(attend(q, keys[:, :, : self.length], values[:, :, : self.length], seen))

    def write(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """As TransformerState.write, at T positions. Returns the queries, [B, H, T, d]."""
        q, k, v = attention.split(qkv, self.places)
        if attention.log_length:
            q = log_length(q, 1 + self.places[:, None, :, None])
        keys, values = self._kept(n, attention)
        place = self.places[:, None, :, None].expand(k.shape)
        keys.scatter_(2, place, k.to(keys.dtype))
        values.scatter_(2, place, v.to(values.dtype))
        return q

    def advance(self) -> None:
        """End a step of T positions."""
        self.steps += self.places.size(1)
        self.positions += self.places.size(1)
