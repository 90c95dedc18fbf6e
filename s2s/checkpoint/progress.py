"""What a run remembers beside weights, optimizer state and data position."""

import dataclasses
import math

FACTOR = 1.5  # a loss over so many times the best of late is a spike
RECENT = 10  # intervals that `of late` looks back
INTERVALS = 3  # in a row that have to be spikes: a bad batch or two are none


@dataclasses.dataclass
class Course:
    """The loss of late, interval by interval; it is saved with the run, so that a resumed one sees what it would have.

    Attributes:
        loss: Sum over this interval's target tokens.
        tokens: Target tokens of this interval.
        recent: Mean losses of the last intervals that were no spikes, at most RECENT.
        spikes: Intervals in a row, up to the last one, that were.
        good: The update that ended the last interval that was none.
    """

    loss: float = 0.0
    tokens: int = 0
    recent: list[float] = dataclasses.field(default_factory=list)
    spikes: int = 0
    good: int = 0

    def add(self, loss: float, tokens: int) -> None:
        """Take in an update: its loss, summed over so many target tokens."""
        self.loss, self.tokens = self.loss + loss, self.tokens + tokens

    def end_interval(self, update: int) -> str | None:
        """End an interval with this update. Returns what is wrong when it and those before make INTERVALS spikes."""
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
            f"update {update}: the loss of {self.spikes} intervals in a row is over {FACTOR} times its best of late "
            f"(now {mean:.3f}, then {best:.3f} a target token)"
        )

    def accept(self) -> None:
        """Take the loss of now for its course from now on."""
        self.recent, self.spikes = [], 0

    def before(self, update: int) -> int:
        """The last update of those up to `update` that does not belong to a spike."""
        return self.good if self.spikes else update


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
