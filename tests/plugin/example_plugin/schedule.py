"""A learning-rate schedule: half of the rate after each quarter of the run."""


def steps(update: int, lr: float, warmup: int, total: int, minimum: float) -> float:
    """The rate of an update after the warm-up."""
    return max(minimum, lr * 0.5 ** (4 * update // max(1, total)))
