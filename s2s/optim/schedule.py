"""Learning-rate schedules: pure functions of the update, so that a resumed run has nothing to restore.

A schedule gives the learning rate after the warm-up. Its arguments are the update u, the highest rate lr, W updates of
warm-up, N updates in all, and `minimum`, the rate at the end of the cosine and linear schedules.
"""

import math

from s2s import registry


def inverse_sqrt(update: int, lr: float, warmup: int, total: int, minimum: float) -> float:
    """lr * sqrt(W / u) (Vaswani et al. 2017)."""
    return lr * math.sqrt(max(warmup, 1) / update)


def cosine(update: int, lr: float, warmup: int, total: int, minimum: float) -> float:
    """From lr to `minimum` along half a cosine until N."""
    done = min(1.0, (update - warmup) / max(1, total - warmup))
    return minimum + (lr - minimum) * ((1 + math.cos(math.pi * done)) / 2)


def linear(update: int, lr: float, warmup: int, total: int, minimum: float) -> float:
    """From lr to `minimum` along a line until N."""
    return minimum + (lr - minimum) * max(0.0, 1 - (update - warmup) / max(1, total - warmup))


def constant(update: int, lr: float, warmup: int, total: int, minimum: float) -> float:
    """lr at every update."""
    return lr


def learning_rate(schedule: str, update: int, lr: float, warmup: int, total: int, minimum: float = 0.0) -> float:
    """The learning rate at an update: a linear warm-up from 0 to `lr` over `warmup` updates, then the schedule.

    Args:
        schedule: The name of a schedule.
        update: Number of the update, from 1.
        lr: The highest learning rate.
        warmup: W.
        total: N.
        minimum: The rate at the end of the cosine and linear schedules.
    """
    if update <= warmup:
        return lr * update / warmup
    return registry.find("schedule", schedule)(update, lr, warmup, total, minimum)
