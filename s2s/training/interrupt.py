"""Signals that end a run: the first asks it to stop at the next update, a second one ends the process at once.

SIGTERM and SIGUSR1 are how schedulers announce that they will take the machine away; the latter is Slurm's, with
`--signal=USR1@120`. SIGINT is Ctrl-C. SIGHUP comes when the terminal is closed; under nohup, which has a process
ignore it, the run goes on.
"""

import os
import signal
import time

PREEMPTED = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (signal.SIGINT, signal.SIGHUP, *PREEMPTED)
ECHO = 1.0  # seconds in which a scheduler's signal is the same one again: it may reach a process in several ways


class Interrupt:
    """While open, remembers that a signal came instead of stopping on the spot.

    Args:
        launched: By torchrun, which alone sends a SIGHUP to this process then, and expects it to end.

    Attributes:
        signal: Number of the signal that came, or None.
    """

    def __init__(self, launched: bool = False):
        self.signal: int | None = None
        self.launched = launched

    def __enter__(self) -> "Interrupt":
        ignored = not self.launched and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        numbers = [number for number in SIGNALS if number != signal.SIGHUP or not ignored]
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._when = number, now
        elif number == signal.SIGINT or now - self._when > ECHO:
            os._exit(128 + number)
