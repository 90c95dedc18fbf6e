"""Blocks of positions of right-padded rows as one position each. No result depends on how much padding there is.

Shapes: B rows, S positions, D width, S' = ceil(S / size).
"""

from torch import Tensor
from torch.nn import functional


def blocks(x: Tensor, size: int, value: float = 0.0) -> Tensor:
    """[B, S, D] -> [B, S', size, D], with `value` where a row has no further position."""
    return functional.pad(x, (0, 0, 0, -x.size(1) % size), value=value).unflatten(1, (-1, size))


def mean_of_blocks(x: Tensor, real: Tensor, size: int) -> Tensor:
    """The mean of the real positions of each block, 0 of a block that has none.

    Args:
        x: [B, S, D].
        real: Bool [B, S, 1].
        size: Positions of a block.

    Returns:
        [B, S', D]
    """
    if size == 1:
        return x.masked_fill(~real, 0)
    counts = blocks(real.to(x.dtype), size).sum(2)
    return blocks(x.masked_fill(~real, 0), size).sum(2) / counts.clamp(min=1)


def maximum_of_blocks(x: Tensor, real: Tensor, size: int) -> Tensor:
    """As `mean_of_blocks`, the greatest value of each component."""
    filled = blocks(x.masked_fill(~real, float("-inf")), size, float("-inf")).amax(2)
    return filled.masked_fill(filled == float("-inf"), 0)
