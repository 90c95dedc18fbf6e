"""Packed rows, which hold several examples each, as one row for each example, and back.

Shapes: B packed rows, T positions, E examples, L positions of the longest example, D width.
"""

import torch
from torch import Tensor


class Examples:
    """Converts packed rows to one row for each example, and back.

    Args:
        segments: [B, T] int64, number of the example within its row; padding has the number of the last example.
        positions: [B, T] int64, position within the example; 0 at padding.

    Attributes:
        lengths: [E] int64, length of each example.
    """

    def __init__(self, segments: Tensor, positions: Tensor):
        begins = torch.ones_like(segments, dtype=torch.bool)
        begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
        real = (begins | (positions > 0)).flatten()  # padding has position 0 and begins no segment
        number, self.longest = begins.flatten().cumsum(0) - 1, int(positions.max()) + 1
        self.shape, self.real = segments.shape, real.nonzero()[:, 0]
        self.lengths = number[self.real].bincount()
        self.places = number[self.real] * self.longest + positions.flatten()[self.real]

    def rows(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [E, L, D], zero at padding"""
        rows = x.new_zeros(len(self.lengths) * self.longest, x.size(2))
        return rows.index_copy(0, self.places, x.flatten(0, 1)[self.real]).unflatten(0, (-1, self.longest))

    def back(self, x: Tensor) -> Tensor:
        """[E, L, D] -> [B, T, D], zero at padding"""
        rows = x.new_zeros(self.shape.numel(), x.size(2))
        return rows.index_copy(0, self.real, x.flatten(0, 1)[self.places]).unflatten(0, self.shape)
