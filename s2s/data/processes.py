"""Parallel work in processes, with results in order, and a progress bar; for the commands that make stores."""

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
    """A function like `map` that runs in `workers` processes and returns results in order; 1: in this process.

    Raises:
        Failure: a worker process died.
    """
    if workers == 1:
        with _no_cycles():
            yield map
        return
    # Forking is fast, and safe because this process has no threads yet; on other systems than Linux it is not safe.
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    # Python drops an exception that is raised while it forks, so an interrupt would be lost: signals wait till after.
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
    """The results in the order of the items; at most `most` items are submitted at once."""
    waiting: deque = deque()
    for item in items:
        waiting.append(executor.submit(function, item))
        if len(waiting) == most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start_worker() -> None:
    """Set up signals of a worker. The parent handles interrupts; if it is killed, its workers exit, too."""
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
    """Disable the search for reference cycles: chunks have none, and the search takes 5% of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def progress(title: str, total: float | None, unit: str = "B") -> Iterator[Callable[[float], Any]]:
    """A function to call with the amount of work just done. It shows a bar if standard error is a terminal.

    Args:
        title: Title of the bar.
        total: Total amount of work; None: unknown.
        unit: Unit of the amounts.
    """
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    class Bar(tqdm):
        monitor_interval = 0  # no thread of its own: this process forks

    with Bar(desc=title, total=total, unit=unit, unit_scale=True, mininterval=0, leave=False) as bar:
        yield bar.update
