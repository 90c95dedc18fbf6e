"""Words of symbols: their places in rows, and one vector for each word.

Shapes: B rows, T symbols of a row, N words of all rows, L symbols of the longest word, P symbols of all words, W words
of the row that has most, d width of symbols, D width of words.
"""

import torch
from torch import Tensor, nn

from s2s.nn.attention import length_mask
from s2s.nn.layers import Layer
from s2s.nn.norms import norm_of
from s2s.nn.unpad import RealTokens


class Words:
    """Rows of symbols, cut into words.

    A word begins at the symbols of `begins`, at the first symbol of an example, and after `longest` symbols of a word.

    Args:
        begins: Bool [B, T], true at symbols that begin a word.
        longest: The most symbols of a word.
        first: Bool [B, T], true at the first symbol of each example. The first symbol of a row is one.
        real: Bool [B, T], true at all symbols that are not padding.

    Attributes:
        lengths: [N] int64, number of symbols of each word, row after row.
        counts: [B] int64, number of words of each row.
        begins: [N] int64, place in its row of each word's first symbol.
        first: Bool [N], true at the first word of each example.
        numbers: [B, T] int64, number within its row of each symbol's word.
        symbols: The real symbols in their rows, [B, T].
    """

    def __init__(self, begins: Tensor, longest: int, first: Tensor, real: Tensor):
        places = torch.arange(begins.size(1), device=begins.device).expand_as(begins)
        last = (places * (begins | first)).cummax(1).values
        begins = ((places - last) % longest == 0) & real
        self.symbols, self.numbers = RealTokens(real), begins.cumsum(1) - 1
        self.counts, self.first = self.numbers[:, -1] + 1, first[begins]
        self.begins = places[begins]
        self.lengths = (begins.flatten().cumsum(0) - 1)[real.flatten()].bincount()

    def heads(self) -> Tensor:
        """Places of the words' first symbols among the P real symbols, [N] int64."""
        return self.lengths.cumsum(0) - self.lengths

    def spread(self, x: Tensor) -> Tensor:
        """One vector for each word as rows: [N, ...] -> [B, W, ...], zero at padding"""
        rows = x.new_zeros(len(self.counts), int(self.counts.max()), *x.shape[1:])
        rows[self.real_words()] = x
        return rows

    def real_words(self) -> Tensor:
        """Bool [B, W], true at real words of rows."""
        return length_mask(self.counts, int(self.counts.max()))[:, 0, 0]


def within(lengths: Tensor, size: int) -> Tensor:
    """Bool [N, size], true at the symbols of words; lengths: [N]."""
    return length_mask(lengths, size)[:, 0, 0]


class WordEncoder(nn.Module):
    """Layers over the symbols of each word, with a learned marker before them whose state is the word's vector.

    Args:
        layers: Number of layers.
        options: Arguments of each Layer; its width is d.
        width: D.
    """

    def __init__(self, layers: int, options: dict, width: int):
        super().__init__()
        self.marker = nn.Parameter(torch.empty(options["width"]))
        self.layers = nn.ModuleList(Layer(**options) for _ in range(layers))
        norm = norm_of(options.get("norm_type", "layer"), options["width"])
        self.norm = norm if options["pre_norm"] else nn.Identity()
        self.output = nn.Linear(options["width"], width)
        self.first_weights()

    def first_weights(self) -> None:
        """Draw the marker, with variance 1 as embedded symbols."""
        nn.init.normal_(self.marker)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: [P, d], the symbols of words, word after word; lengths: [N]. Returns [N, D]. A word may have no symbol."""
        size = int(lengths.max())
        x = RealTokens(within(lengths, size)).pad(x)
        x = torch.cat([self.marker.to(x.dtype).expand(len(x), 1, -1), x], dim=1)
        mask = length_mask(lengths + 1, size + 1)
        real = RealTokens(mask[:, 0, 0])
        x = real.unpad(x)
        for layer in self.layers:
            x = layer(x, mask, real)
        heads = (lengths + 1).cumsum(0) - lengths - 1
        return self.output(self.norm(x[heads]))

    def flops(self, symbols: int) -> int:
        """Floating-point operations of the linear maps over so many symbols."""
        return 2 * symbols * sum(p.numel() for p in self.layers.parameters() if p.dim() == 2)
