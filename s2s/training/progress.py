"""What a run remembers, and what it does not know yet."""

import dataclasses
import math
from typing import TYPE_CHECKING, NamedTuple

from s2s.training.divergence import Course

if TYPE_CHECKING:  # who reads what a run remembers need not import torch
    from torch import Tensor

    from s2s.data.batch import Batch


@dataclasses.dataclass
class Progress:
    """What a run remembers beside weights, optimizer state and data position.

    Attributes:
        update: Updates done (skipped ones included).
        skipped: Updates skipped because the gradient was not finite.
        skipped_in_a_row: Of those, the ones just now.
        best: Best value of the best metric so far.
        best_metric: Which one that is.
        bad_validations: Validations since then.
        seconds: Training time so far.
        last_metrics: Values of the last validation, with its update.
        epoch: Sums over the epoch's batches so far, for its summary.
        course: The loss of late.
        rollbacks: How often the run went back to a checkpoint because it diverged.
        split: Batches that were split in two because they did not fit into memory.
    """

    update: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: float | None = None
    best_metric: str | None = None
    bad_validations: int = 0
    seconds: float = 0.0
    last_metrics: dict = dataclasses.field(default_factory=dict)
    epoch: dict = dataclasses.field(default_factory=dict)
    course: Course = dataclasses.field(default_factory=Course)
    rollbacks: int = 0
    split: int = 0

    def __post_init__(self):
        if isinstance(self.course, dict):  # as it was saved
            self.course = Course(**self.course)

    def validated(self, metric: str, higher: bool, values: dict[str, float]) -> bool:
        """Take in the values of a validation of this update.

        Args:
            metric: What the best are known by.
            higher: Whether more of it is better.
            values: By metric.

        Returns:
            Whether the value of the best metric is a new best; one that is not finite is none.
        """
        value, best, sign = values[metric], self.best, -1 if higher else 1
        better = math.isfinite(value) and (best is None or sign * value < sign * best)
        if better:
            self.best, self.best_metric, self.bad_validations = value, metric, 0
        else:
            self.bad_validations += 1
        self.last_metrics = {"update": self.update, **values}
        return better

    @property
    def trusted(self) -> int:
        """The last update before anything was wrong; this one if nothing is."""
        return self.course.before(self.update) - self.skipped_in_a_row


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
    batches: "list[Batch | None]"
    split: "list[Batch]"
    counts: dict[str, int]
    totals: dict[str, int]
    numbers: "Tensor"
