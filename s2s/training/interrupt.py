"""Signals that end a run: the first one stops it at the next update, a second one ends the process at once.

Schedulers send SIGTERM or SIGUSR1 before they take the machine away; SIGUSR1 is Slurm's, with `--signal=USR1@120`.
SIGINT is Ctrl-C. SIGHUP is sent when the terminal is closed; under nohup it is ignored, and the run goes on.
"""

import os
import signal
import time

PREEMPTED = (signal.SIGTERM, signal.SIGUSR1)
SIGNALS = (signal.SIGINT, signal.SIGHUP, *PREEMPTED)
ECHO = 1.0  # seconds in which a repeated scheduler signal counts as the same one: it may arrive in several ways


class Interrupt:
    """A context in which signals are recorded instead of ending the process.

    Args:
        launched: Whether torchrun has started the process. Then SIGHUP comes from torchrun, which expects the process
            to end.

    Attributes:
        signal: Number of the signal received; None: there was none.
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
