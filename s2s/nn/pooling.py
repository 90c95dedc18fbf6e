"""Pooling of blocks of positions of right-padded rows. The amount of padding does not change any result.

Shapes: B rows, S positions, D width, S' = ceil(S / size).
"""

from torch import Tensor
from torch.nn import functional


def blocks(x: Tensor, size: int, value: float = 0.0) -> Tensor:
    """Divide positions into blocks: [B, S, D] -> [B, S', size, D], with `value` after the last position."""
    return functional.pad(x, (0, 0, 0, -x.size(1) % size), value=value).unflatten(1, (-1, size))


def mean_of_blocks(x: Tensor, real: Tensor, size: int) -> Tensor:
    """The mean over the real positions of each block; 0 where a block has none.

    Args:
        x: [B, S, D].
        real: Bool [B, S, 1].
        size: Number of positions of a block.

    Returns:
        [B, S', D]
    """
    if size == 1:
        return x.masked_fill(~real, 0)
    counts = blocks(real.to(x.dtype), size).sum(2)
    return blocks(x.masked_fill(~real, 0), size).sum(2) / counts.clamp(min=1)


def maximum_of_blocks(x: Tensor, real: Tensor, size: int) -> Tensor:
    """The maximum over the real positions of each block, for each component; arguments as in `mean_of_blocks`."""
    filled = blocks(x.masked_fill(~real, float("-inf")), size, float("-inf")).amax(2)
    return filled.masked_fill(filled == float("-inf"), 0)
