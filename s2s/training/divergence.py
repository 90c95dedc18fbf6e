"""Divergence: the loss has risen and does not fall again (s2s/checkpoint/progress.py)."""

from s2s.errors import Failure

ROLLBACKS = 5  # maximum number of rollbacks; then the run stops


class Diverged(Failure):
    """Training has diverged."""
