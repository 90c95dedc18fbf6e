"""How much of a fault-injection suite is run: FAULTS=full for all of it, else about a tenth."""

import os


def scaled(full: int) -> int:
    """The number of trials of a suite that has `full` of them."""
    return full if os.environ.get("FAULTS") == "full" else max(1, full // 10)
