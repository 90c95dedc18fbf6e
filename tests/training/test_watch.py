"""The threads that watch other processes."""

import threading
import time

import torch.distributed as dist

from s2s.training import watch
from s2s.training.watch import Watch


def test_no_thread_is_in_the_store_when_a_run_has_ended(monkeypatch):
    """A thread that comes back from native code while Python ends is unwound through C++, which aborts the process."""
    before, busy, beat = set(threading.enumerate()), threading.Event(), Watch._beat

    def slow(self):
        beat(self)
        if threading.current_thread() is not threading.main_thread():
            busy.set()
            time.sleep(0.5)

    monkeypatch.setattr(Watch, "_beat", slow)
    monkeypatch.setattr(watch, "_address", lambda: "127.0.0.1")
    watching = Watch(dist.HashStore(), 0, 1, 5.0)
    assert busy.wait(10)
    watching.stop()
    assert not set(threading.enumerate()) - before
