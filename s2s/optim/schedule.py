"""Learning-rate schedules: pure functions of the update, so that a resumed run has nothing to restore."""

import math


def _inverse_sqrt(update: int, warmup: int, total: int) -> float:
    return math.sqrt(max(warmup, 1) / update)


def _cosine(update: int, warmup: int, total: int) -> float:
    return (1 + math.cos(math.pi * min(1.0, (update - warmup) / max(1, total - warmup)))) / 2


def _linear(update: int, warmup: int, total: int) -> float:
    return max(0.0, 1 - (update - warmup) / max(1, total - warmup))


def _constant(update: int, warmup: int, total: int) -> float:
    return 1.0


SCHEDULES = {"inverse_sqrt": _inverse_sqrt, "cosine": _cosine, "linear": _linear, "constant": _constant}


def learning_rate(schedule: str, update: int, lr: float, warmup: int, total: int, minimum: float = 0.0) -> float:
    """The learning rate of an update.

    A linear warm-up from 0 to `lr` over `warmup` updates; then, with u the update and W, N the warm-up and total:
    inverse_sqrt: lr * sqrt(W / u) (Vaswani et al. 2017); cosine: from lr to `minimum` along half a cosine until N;
    linear: from lr to `minimum` along a line until N; constant: lr.

    Args:
        schedule: A key of SCHEDULES.
        update: Number of the update, from 1.
        lr: The highest learning rate.
        warmup: W.
        total: N, used by cosine and linear.
        minimum: Where cosine and linear end.
    """
    if update <= warmup:
        return lr * update / warmup
    factor = SCHEDULES[schedule](update, warmup, total)
    return minimum + (lr - minimum) * factor if schedule in ("cosine", "linear") else lr * factor
