"""What is counted on the stand-in for a GPU. This module does not import torch."""

import collections
import dataclasses
from typing import NamedTuple


@dataclasses.dataclass
class Counts:
    """What has happened on the stand-in.

    Attributes:
        operators: Name of an operator -> how often it was started.
        waits: Reason and place in the project -> how often the host waited for the device there.
        copies: Kind and place -> how often the host copied to the device. A blocking copy makes the host wait, unless
            it is small, so these are counted apart from `waits`.
    """

    operators: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    waits: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    copies: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    @property
    def started(self) -> int:
        """How many operators were started."""
        return self.operators.total()

    @property
    def synchronizations(self) -> int:
        """How often the host waited for the device."""
        return self.waits.total()

    def copy(self) -> "Counts":
        return Counts(self.operators.copy(), self.waits.copy(), self.copies.copy())

    def since(self, before: "Counts") -> "Counts":
        """What has happened since `before`, a copy."""
        return Counts(self.operators - before.operators, self.waits - before.waits, self.copies - before.copies)


class Ended(NamedTuple):
    """A command that has ended.

    Attributes:
        code: Its exit code.
        error: What it wrote to standard error.
        each: What each update, or each step of a search, did on the stand-in; empty on a CPU.
        polls: What each look for finished sentences did.
        counts: What all of it did; None on a CPU.
    """

    code: int
    error: str
    each: list[Counts]
    polls: list[Counts]
    counts: Counts | None
