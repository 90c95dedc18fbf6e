"""Makes signals end a command within a second, even during long native calls."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 0.8  # seconds that Python's handlers have to start


@contextmanager
def answered(name: str, abandon: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, SIGINT and SIGTERM end the process even during a long call of native code, in which
    Python runs no signal handlers: a thread receives the signal, and ends the process if no handler has started.

    A signal without a handler, or an ignored one, is unaffected. Outside the main thread nothing is changed.

    Args:
        name: The name of the command.
        abandon: Removes the remains of unfinished work.
    """
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {n: h for n in (signal.SIGINT, signal.SIGTERM) if callable(h := signal.getsignal(n))}
    if not handlers:
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    begun = threading.Event()

    def handle(number: int, frame) -> None:
        begun.set()
        handlers[number](number, frame)

    def watch() -> None:
        while heard := os.read(reader, 1):
            if heard[0] in handlers and not begun.wait(GRACE):
                abandon()
                if heard[0] == signal.SIGINT:
                    print(f"{name}: interrupted", file=sys.stderr, flush=True)
                os._exit(128 + heard[0])
            begun.clear()
        os.close(reader)

    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, name="signals", daemon=True).start()
    for number in handlers:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(writer)


@contextmanager
def at_once() -> Iterator[None]:
    """While the context lasts, SIGINT ends the process at once, as SIGTERM does, unless a handler is installed.

    This is for long calls of native code that hold the interpreter lock, during which no thread of ours could run.
    There must be nothing to clean up.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
