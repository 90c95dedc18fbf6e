"""State of a decoder of words and symbols between steps: two caches, which advance at two rates.

Shapes: B sentences, K rows a sentence, R = B*K, n rows of a step, N layers, G key/value heads, L places, d head width.
"""

import torch
from torch import Tensor

from s2s.nn.attention import CrossAttention, SelfAttention, attend, heads_of, merged
from s2s.nn.log_length import log_length
from s2s.nn.slots import kept
from s2s.nn.state import TransformerState


class RowCache:
    """Keys and values of rows that advance independently of each other.

    Args:
        layers: N.
        lengths: [R] int64, number of finished positions of each row.
        most: Number of learned positions; None: no limit.

    Attributes:
        cache: [N, 2, R, G, L, d]; None before the first step. L is 8 initially and doubles when needed.
        places: [n, 1] int64, the position of each row of the step.
        size: Greater than every position of the step.
        longest: At least the length of every row, on the host.
    """

    def __init__(self, layers: int, lengths: Tensor, most: int | None = None):
        self.layers, self.lengths, self.most = layers, lengths, most
        self.cache: Tensor | None = None
        self.longest = 0

    def begin(self, rows: Tensor) -> None:
        """Prepare a step of some rows, [n] int64. Rows that are free or finished stay at the last learned position."""
        if self.most is not None:
            self.lengths.clamp_(max=self.most - 1)
        self.rows, self.places = rows, self.lengths[rows][:, None]
        self.size = int(self.places.max()) + 1
        self.longest = max(self.longest, self.size)
        self.seen = (torch.arange(self.size, device=rows.device) <= self.places)[:, None, None]

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """As TransformerState.attend: qkv [n, 1, (H + 2G) * d]. Returns [n, 1, H * d]."""
        q = self.write(n, qkv, attention)
        keys, values = (held[self.rows, :, : self.size] for held in self.cache[n])
        return merged(attend(q, keys, values, self.seen))

    def write(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """As TransformerState.write: qkv [n, 1, (H + 2G) * d]. Returns the queries, [n, H, 1, d]."""
        q, k, v = attention.split(qkv, self.places)
        self._grow(k)
        for held, new in zip(self.cache[n], (k, v), strict=True):
            held[self.rows, :, self.places[:, 0]] = new[:, :, 0].to(held.dtype)
        return log_length(q, 1 + self.places[:, None, :, None]) if attention.log_length else q

    def _grow(self, like: Tensor) -> None:
        """Extend the cache to `size` positions; like: [n, G, 1, d]."""
        have = 0 if self.cache is None else self.cache.size(4)
        if self.size > have:
            shape = self.layers, 2, len(self.lengths), like.size(1), max(self.size, 2 * have, 8), like.size(3)
            cache = like.new_zeros(shape)  # zeros: a masked value adds nothing only if it is finite
            if self.cache is not None:
                cache[:, :, :, :, :have] = self.cache
            self.cache = cache

    def advance(self) -> None:
        """End a step."""
        self.lengths[self.rows] += 1

    def reorder(self, parents: Tensor) -> None:
        """Row r continues row parents[r]."""
        self.lengths = self.lengths[parents]
        if self.cache is not None:
            used = self.cache[:, :, :, :, : self.longest]
            used.copy_(used.index_select(2, parents))

    def release(self, rows: Tensor, size: int) -> None:
        """Keep `rows` as the first of `size` rows, and empty the others."""
        self.lengths = kept(self.lengths, rows, size)
        self.longest = int(self.lengths.max()) if size else 0
        if self.cache is not None:
            self.cache = kept(self.cache[:, :, :, :, : max(8, self.longest)], rows, size, 2)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return 0 if self.cache is None else self.cache.nbytes


class ReadingCache(RowCache):
    """A RowCache of layers with cross-attention.

    Attributes:
        mask: Bool [n, 1, 1, S], true at the real source positions of each row of the step.
    """

    def read(self, key_values: Tensor, mask: Tensor, sentences: Tensor) -> None:
        """Prepare cross-attention of a step.

        Args:
            key_values: [N, 2, B, G, S, d], of all sentences.
            mask: Bool [B, 1, 1, S].
            sentences: [n] int64, the sentence of each row of the step.
        """
        self.key_values, self.mask, self.sentences = key_values, mask[sentences], sentences

    def cross(self, n: int, query: Tensor, attention: CrossAttention) -> Tensor:
        """As TransformerState.cross: query [n, 1, H * d]. Returns [n, 1, H * d]."""
        (keys, values), mask = attention.seen(self.key_values[n][:, self.sentences], self.mask)
        return merged(attend(heads_of(query, attention.heads), keys, values, mask))


class WordState(TransformerState):
    """A DecoderState of two caches: one of words, which advances when a word ends, and one of the symbols of the
    current word. Keys and values of the source are those of TransformerState, whose own cache stays empty.

    Args:
        key_values, mask, rows, most: As in TransformerState.
        layers: Number of layers over symbols.
        longest: The most symbols of a word.

    Attributes:
        ids: [R, longest] int64, the symbols of the current word of each row.
    """

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int, most: int | None, layers: int, longest: int):
        super().__init__(key_values, mask, rows, most)
        lengths = torch.zeros(len(mask) * rows, dtype=torch.int64, device=mask.device)
        self.words, self.symbols = ReadingCache(len(key_values), lengths, most), RowCache(layers, lengths.clone())
        self.ids = lengths.new_zeros(len(lengths), longest)

    def empty(self, slots: int) -> "WordState":
        """As TransformerState.empty."""
        state = type(self)(self.key_values[:, :, :0], self.mask[:0], self.rows, self.most, self.symbols.layers,
                           self.ids.size(1))  # fmt: skip
        state.release(torch.arange(0, device=self.mask.device), slots)
        return state

    def ended(self, begins: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """End the words before symbols that begin one, and prepare a step of the layers of words for their rows.

        Args:
            begins: Bool [R], whether the next symbol of each row begins words.

        Returns:
            Rows whose word ends, [n] int64; the symbols of these words, [P] int64, word after word; and the number of
            symbols of each word, [n] int64. The word before the first one of a sentence is empty.
        """
        begins = begins | (self.symbols.lengths >= self.ids.size(1)) | (self.words.lengths == 0)
        rows = begins.nonzero()[:, 0]
        lengths = self.symbols.lengths[rows]
        real = torch.arange(self.ids.size(1), device=rows.device) < lengths[:, None]
        self.symbols.lengths[rows] = 0
        if len(rows):
            self.words.begin(rows)
            self.words.read(self.key_values, self.mask, rows // self.rows)
        return rows, self.ids[rows][real], lengths

    def begin_symbols(self, tokens: Tensor) -> None:
        """Prepare a step of the layers over symbols, and add tokens [R] to the current words."""
        rows = torch.arange(len(tokens), device=tokens.device)
        self.ids[rows, self.symbols.lengths] = tokens
        self.symbols.begin(rows)

    def reorder(self, parents: Tensor) -> None:
        """As TransformerState.reorder."""
        self.words.reorder(parents)
        self.symbols.reorder(parents)
        self.ids = self.ids[parents]

    def admit(self, slots: Tensor, other: "WordState", which: Tensor) -> None:
        """As TransformerState.admit."""
        super().admit(slots, other, which)
        self._restart(slots)

    def free(self, slots: Tensor) -> None:
        """As TransformerState.free."""
        super().free(slots)
        self._restart(slots)

    def _restart(self, slots: Tensor) -> None:
        rows = self._rows(slots)
        self.words.lengths[rows] = self.symbols.lengths[rows] = 0

    def _rows(self, slots: Tensor) -> Tensor:
        return (slots[:, None] * self.rows + torch.arange(self.rows, device=slots.device)).flatten()

    def release(self, keep: Tensor, slots: int) -> None:
        """As TransformerState.release."""
        super().release(keep, slots)
        rows, size = self._rows(keep), slots * self.rows
        self.words.release(rows, size)
        self.symbols.release(rows, size)
        self.ids = kept(self.ids, rows, size)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return super().nbytes + self.ids.nbytes + self.words.nbytes + self.symbols.nbytes
