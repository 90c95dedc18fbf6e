"""Work in several processes, in order, with a bar: what the commands that make stores share."""

import gc
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection, get_context, parent_process
from typing import Any

from s2s.errors import Failure

STOP = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def pool(workers: int) -> Iterator[Callable[[Callable, Iterable], Iterator]]:
    """A function that maps a function over a stream, in order, in so many processes (one: in this one)."""
    if workers == 1:
        with _no_cycles():
            yield map
        return
    # Forking is instant and this process has no threads yet; elsewhere than on Linux it is not safe.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    # Python drops an exception that is raised while it forks, and with it the wish to stop; so signals wait till after.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        executor = ProcessPoolExecutor(workers, context, initializer=_start_worker)
        executor.submit(int).result()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    try:
        yield partial(_map_in_order, executor, 2 * workers + 2)
    except BrokenProcessPool as error:
        raise Failure("a worker process died, perhaps for lack of memory; fewer workers need less") from error
    finally:
        executor.shutdown(cancel_futures=True)


def _map_in_order(executor: ProcessPoolExecutor, most: int, function: Callable, items: Iterable) -> Iterator:
    """Results in the order of the items, with at most `most` on the way."""
    waiting: deque = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) == most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start_worker() -> None:
    """The parent decides when a worker ends: at an interrupt it cleans up, and if it is killed the workers go too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP)
    gc.disable()  # see _no_cycles

    def watch() -> None:
        connection.wait([parent_process().sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _no_cycles() -> Iterator[None]:
    """Search no cycles for garbage: chunks leave none, and to search their many lists takes 5% of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def progress(title: str, total: float | None, unit: str = "B") -> Iterator[Callable[[float], Any]]:
    """A function that takes how much was just done, and shows a bar if standard error is a terminal.

    Args:
        title: What is being done.
        total: How much there is to do; None: unknown.
        unit: Of what is counted.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own: this process forks

    with Bar(desc=title, total=total, unit=unit, unit_scale=True, mininterval=0, leave=False) as bar:
        yield bar.update
