"""Updates whose results are still on the device."""

from typing import NamedTuple

from torch import Tensor

from s2s.data.batch import Batch


class Pending(NamedTuple):
    """An update whose numbers have not been read from the device yet; they show whether it was skipped.

    Attributes:
        update: Number of the update.
        batches: Batches of this rank.
        split: Those of them that were split in two because they did not fit into memory.
        counts: Numbers of sentences and tokens over all ranks.
        totals: Counts of the criterion over all ranks.
        numbers: On the device: norm of the gradient; and sums over all ranks of the loss, of batches split, and of the
            criterion's metrics.
    """

    update: int
    batches: list[Batch | None]
    split: list[Batch]
    counts: dict[str, int]
    totals: dict[str, int]
    numbers: Tensor
