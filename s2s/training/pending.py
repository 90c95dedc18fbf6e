"""What a run does not know yet."""

from typing import NamedTuple

from torch import Tensor

from s2s.data.batch import Batch


class Pending(NamedTuple):
    """An update that was made, or skipped, which only its numbers tell.

    Attributes:
        update: Which one.
        batches: Of this rank.
        split: Those of them that were split in two because they did not fit into memory.
        counts: What all ranks computed.
        totals: The criterion's counts of all ranks.
        numbers: On the device: the gradient's norm; sums over all ranks: loss, batches split, the criterion's metrics.
    """

    update: int
    batches: list[Batch | None]
    split: list[Batch]
    counts: dict[str, int]
    totals: dict[str, int]
    numbers: Tensor
