"""Ctrl-C and SIGTERM: the first asks the run to stop at the next update, the second ends the process at once."""

import os
import signal


class Interrupt:
    """While open, remembers that a signal came instead of stopping on the spot.

    Attributes:
        signal: Number of the signal that came, or None.
    """

    def __init__(self):
        self.signal: int | None = None

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number
