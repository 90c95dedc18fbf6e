"""Divergence: a loss that has left its course and does not come back."""

import dataclasses
import math

from s2s.errors import Failure

FACTOR = 1.5  # a loss over so many times the best of late is a spike
RECENT = 10  # intervals that `of late` looks back
INTERVALS = 3  # in a row that have to be spikes: a bad batch or two are none
ROLLBACKS = 5  # after so many the run stops


class Diverged(Failure):
    """Training has diverged."""


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
