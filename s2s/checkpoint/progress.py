"""The progress of a run: counts, the best metric and the recent loss, which are saved with a checkpoint."""

import dataclasses
import math

FACTOR = 1.5  # an interval is a spike if its loss exceeds the best recent loss by this factor
RECENT = 10  # number of recent intervals
INTERVALS = 3  # number of consecutive spikes that count as divergence


@dataclasses.dataclass
class Course:
    """The recent course of the loss, by intervals. It is saved with the run, so a resumed run continues it.

    Attributes:
        loss: Sum over the target tokens of the current interval.
        tokens: Target tokens of the current interval.
        recent: Mean losses of the last intervals that were no spikes, at most RECENT.
        spikes: Number of consecutive spikes up to the last interval.
        good: The last update of the last interval that was no spike.
    """

    loss: float = 0.0
    tokens: int = 0
    recent: list[float] = dataclasses.field(default_factory=list)
    spikes: int = 0
    good: int = 0

    def add(self, loss: float, tokens: int) -> None:
        """Add an update: its loss, summed over its target tokens, and their number."""
        self.loss, self.tokens = self.loss + loss, self.tokens + tokens

    def end_interval(self, update: int) -> str | None:
        """End an interval with this update; returns a message if it is the last of INTERVALS consecutive spikes."""
        if not self.tokens:  # every update was skipped
            return None
        mean, self.loss, self.tokens = self.loss / self.tokens, 0.0, 0
        best = min(self.recent, default=math.inf)
        if mean <= FACTOR * best:
            self.recent, self.spikes, self.good = [*self.recent, mean][-RECENT:], 0, update
            return None
        self.spikes += 1
        if self.spikes < INTERVALS:
            return None
        return (
            f"update {update}: the loss of {self.spikes} intervals in a row exceeds {FACTOR} times its recent best "
            f"(now {mean:.3f}, then {best:.3f} per target token)"
        )

    def accept(self) -> None:
        """Start again from the present loss, so that it does not count as a spike."""
        self.recent, self.spikes = [], 0

    def before(self, update: int) -> int:
        """The last update, up to `update`, that does not belong to a spike."""
        return self.good if self.spikes else update


@dataclasses.dataclass
class Progress:
    """The progress of a run.

    Attributes:
        update: Number of updates done (skipped ones included).
        skipped: Number of updates skipped because the gradient was not finite.
        skipped_in_a_row: Number of consecutive skipped updates, up to the last update.
        best: Best value of the best metric so far.
        best_metric: Name of that metric.
        bad_validations: Number of validations since then.
        seconds: Training time so far, in seconds.
        last_metrics: Values of the last validation, with its update.
        epoch: Sums over the batches of the current epoch, for its summary.
        course: The recent course of the loss.
        rollbacks: How often the run went back to a checkpoint because it diverged.
        split: Number of batches that were split in two because they did not fit into memory.
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
        """Record a validation after this update.

        Args:
            metric: Name of the best metric.
            higher: Whether higher values of it are better.
            values: Metric -> value.

        Returns:
            Whether the best metric has a new best value; a value that is not finite is never the best.
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
        """The last update before the present spikes and skipped updates; without them, the last update."""
        return self.course.before(self.update) - self.skipped_in_a_row
