"""Divergence: a loss that has left its course (s2s/checkpoint/progress.py) and does not come back."""

from s2s.errors import Failure

ROLLBACKS = 5  # after so many the run stops


class Diverged(Failure):
    """Training has diverged."""
