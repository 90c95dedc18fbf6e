"""Memory of a command with all the processes that it starts."""

import subprocess
import threading
import time
from pathlib import Path

EVERY = 0.05  # seconds between two looks


def run_and_watch(command: list[str]) -> tuple[float, float]:
    """Run a command to its end.

    Returns:
        Seconds, and the peak of its memory in MiB: the proportional set sizes (PSS: a page that n processes share
        counts one nth in each) of the process and all its descendants, added up, the highest of the looks at them.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak, done = [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(EVERY):
            peak[0] = max(peak[0], sum(map(_kilobytes, _family(process.pid))) / 1024)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        raise RuntimeError(f"{command[0]} ended with {code}")
    return time.perf_counter() - began, peak[0]


def _family(number: int) -> list[int]:
    """A process and its descendants."""
    children = []
    for path in Path(f"/proc/{number}/task").glob("*/children"):
        try:
            children += map(int, path.read_text().split())
        except OSError:  # it has ended
            continue
    return [number, *(one for child in children for one in _family(child))]


def _kilobytes(number: int) -> int:
    """The proportional set size of a process; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
