"""s2s-train with a thread for each core, beside a busy loop and alone, with short waits of threads and with OpenMP's.

`s2s.config.cores` keeps the loops short in which threads of OpenMP wait for each other. The first two rows show what it
costs and gains beside OpenMP's own setting; the third row is the speed beside a busy loop over that alone.
"""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

from corpus import Corpus
from measure import Paired, Row
from scaling import rate

from s2s.config.cores import cores

REFERENCE = "OpenMP's own setting"
OWN = {"GOMP_SPINCOUNT": "300000"}  # libgomp's, if nothing is set


def run(corpus: Corpus, device: str, quick: bool, rounds: str | None = None) -> list[Row]:
    """Measure the settings in turns."""
    preset, budget, updates = ("transformer_tiny", 512, 4) if quick else ("transformer_tiny", 512, 24)
    speeds: dict[tuple[bool, bool], list[float]] = {(own, busy): [] for own in (False, True) for busy in (False, True)}
    for _ in range(int(rounds or (1 if quick else 5))):
        for (own, busy), values in speeds.items():
            # Beside other work OpenMP's setting is so slow that few updates must do.
            count = 4 if own and busy else updates
            with busy_loop() if busy else contextlib.nullcontext():
                values.append(rate(corpus.store, preset, budget, count, 1, cores(), **(OWN if own else {})))
    beside, alone = (Paired(speeds[False, busy], speeds[True, busy]) for busy in (True, False))
    return [
        alone.row("alone", "target tokens/s"),
        beside.row("beside a busy loop", "target tokens/s"),
        Paired(speeds[False, True], speeds[False, False]).row("beside a busy loop, over alone", "target tokens/s"),
    ]


@contextlib.contextmanager
def busy_loop() -> Iterator[None]:
    """Another process that uses one core, and ends with this one even if this one is killed."""
    code = f"import os\nwhile os.getppid() == {os.getpid()}: pass"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        yield
    finally:
        process.kill()
        process.wait()
