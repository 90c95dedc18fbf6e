"""Heartbeats between the processes of a run, independent of the exchange of gradients, which has a timeout of hours.

Each process has a thread that writes its heartbeats to a store on rank 0. Rank 0 reads the heartbeats of all others,
and they read those of rank 0. If a process is stopped, or its machine fails, it is named within the timeout, and all
processes end. A process that is only slow, in a long validation or save, keeps beating, as long as native code lets
other threads run; safetensors does so from version 0.8.
"""

import contextlib
import datetime
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

POLL, GRACE = 0.5, 3.0  # seconds between heartbeats; seconds in which a process must end by itself
LATE = 8.0  # seconds that a heartbeat may take on a busy machine; a process that is not heard until then is dead
NEWS = "news"  # key of what ended the run: its exit code, and the process to wake


class Watch:
    """Threads that end this process when another one has failed or sends no heartbeat. This process could not notice it
    itself while it waits in an exchange. If the launcher has died, the run is asked to save and stop.

    Args:
        store: The store of the rendezvous, which has the address of the store of heartbeats.
        rank, size: As in Ranks.
        timeout: Seconds without a heartbeat after which a process counts as dead.
        command, unit: The command, and what `update` counts, for messages.

    Attributes:
        update: The update that this process has reached; others read it.
        note: Called with a message about a process without heartbeat.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float, command: str = "s2s-train",
                 unit: str = "update"):  # fmt: skip
        self.command, self.unit = command, unit
        self.rank, self.size, self.timeout, self.update = rank, size, timeout, 0
        self.note: Callable[[str], None] = lambda text: None
        self._beats = 0
        self._seen: list[dict[str, Any]] = [{} for _ in range(size)]  # the last heartbeat of each rank
        self._silent = [0.0] * size  # seconds since then
        self._answers, self._stop, self._news, self._gone = 0, threading.Event(), None, {rank}
        within = datetime.timedelta(seconds=timeout)
        if rank == 0:
            address = _address()
            self._store = dist.TCPStore(address, 0, is_master=True, wait_for_workers=False, timeout=within)
            self._beat()
            store.set("watch", json.dumps([address, self._store.port]))
        else:
            place = json.loads(store.get("watch"))
            self._store = dist.TCPStore(*place, is_master=False, wait_for_workers=False, timeout=within)
            self._beat()
            self._look([0])
        self._parent = os.getppid()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._talk, self._guard)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End the threads. A thread that is still in a call of the store while Python ends would abort the process."""
        self._stop.set()
        for thread in self._threads:
            thread.join(LATE)  # a request to a rank 0 that is stopped never returns

    def fail(self, code: int) -> int | None:
        """Tell the other processes that this one ends with an exit code. Returns the exit code of the process that
        failed first, if it was another one, whose failure has caused that of this process; otherwise None."""
        first = None
        with contextlib.suppress(RuntimeError):  # rank 0 is dead
            first = self._news["code"] if self._news else self._tell({"code": code})
            self._stay()
        ending = threading.Timer(LATE, os._exit, [code if first is None else first])  # if it does not end by itself
        ending.daemon = True
        ending.start()
        return first

    def quiet(self) -> list[int]:
        """The ranks that send no heartbeats any more; empty if it is known what ended the run."""
        ranks = [rank for rank in range(self.size) if rank != self.rank]
        try:
            before, until = None, time.monotonic() + LATE
            while ranks and not self._news and time.monotonic() < until:
                seen = self._look(ranks)
                before = before or seen
                ranks = [rank for rank in ranks if seen[rank] == before[rank]]
                time.sleep(POLL)
        except RuntimeError:
            ranks = [0]
        if self._news:
            return []
        self._gone.update(ranks)
        return ranks

    def name(self, rank: int) -> str:
        """A text about a process: its rank, its place, and the update that it had reached."""
        seen = self._seen[rank]
        where = f" (pid {seen['pid']} on {seen['host']}, last seen in {self.unit} {seen['update']:,})" if seen else ""
        return f"process {rank} of {self.size}{where}"

    # --- the threads -------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Send heartbeats, and read those of others."""
        others = range(1, self.size) if self.rank == 0 else [0]
        while not self._stop.wait(POLL):
            if os.getppid() != self._parent:
                os.kill(os.getpid(), signal.SIGTERM)
                self._parent = os.getppid()
            try:
                self._beat()
                if not self._news and self._store.check([NEWS]):
                    self._hear(json.loads(self._store.get(NEWS)))
                before = list(self._seen)
                self._look(others)
            except RuntimeError:  # the connection is lost: rank 0 is dead, or the run has ended
                return
            self._answers += 1
            for rank in others:  # a late look, after this process was stopped itself, counts like any other
                self._silent[rank] = 0.0 if self._seen[rank] != before[rank] else self._silent[rank] + POLL
                if self._silent[rank] >= self.timeout:
                    self._give_up(rank)

    def _guard(self) -> None:
        """Check that the store answers; if rank 0 is stopped, a request never returns."""
        answers, silent = 0, 0.0
        while not self._stop.wait(POLL):
            silent = 0.0 if self._answers != answers else silent + POLL
            answers = self._answers
            if silent >= self.timeout and not self._news:
                _wake(self._seen[0])
                telling = threading.Thread(target=self._give_up, args=[0], daemon=True)
                telling.start()
                telling.join(GRACE)
                if telling.is_alive():  # rank 0 does not wake
                    self._say(0)
                os._exit(1)

    def _beat(self) -> None:
        self._beats += 1
        beat = {"beats": self._beats, "host": socket.gethostname(), "pid": os.getpid(), "update": self.update}
        self._store.set(f"beat/{self.rank}", json.dumps(beat))

    def _look(self, ranks) -> list[dict[str, Any]]:
        """Read the heartbeats of some ranks; returns the last known heartbeats of all."""
        keys = [f"beat/{rank}" for rank in ranks]
        present = keys if self._store.check(keys) else [key for key in keys if self._store.check([key])]
        for key, beat in zip(present, self._store.multi_get(present) if present else [], strict=True):
            self._seen[int(key.partition("/")[2])] = json.loads(beat)
        return list(self._seen)

    def _give_up(self, rank: int) -> None:
        """End all processes, because one sends no heartbeat."""
        first = None
        with contextlib.suppress(RuntimeError):  # rank 0 is dead
            first = self._tell({"code": 1, "wake": self._seen[rank]})
        if first is None:
            self._say(rank)
            self._stay()
            os._exit(1)

    def _tell(self, news: dict[str, Any]) -> int | None:
        """Publish what ends the run. Returns the exit code that another process has published before; otherwise
        None."""
        self._news = news
        self._store.set(f"heard/{self.rank}", "")
        if self._store.add("failures", 1) > 1:
            self._news = json.loads(self._store.get(NEWS))
            return self._news["code"]
        self._store.set(NEWS, json.dumps(news))
        _wake(news.get("wake"))
        return None

    def _stay(self) -> None:
        """On rank 0, which has the store, wait until all live processes have read what ends the run."""
        until = time.monotonic() + LATE
        alive = [f"heard/{rank}" for rank in range(self.size) if rank not in self._gone]
        while self.rank == 0 and alive and not self._store.check(alive) and time.monotonic() < until:
            time.sleep(POLL / 10)

    def _hear(self, news: dict[str, Any]) -> None:
        """End with the exit code of the process that failed first, after GRACE seconds."""
        self._news = news
        with contextlib.suppress(RuntimeError):  # rank 0 is dead
            self._store.set(f"heard/{self.rank}", "")
        _wake(news.get("wake"))
        time.sleep(GRACE)
        self._stay()
        os._exit(news["code"])

    def _say(self, rank: int) -> None:
        text = (f"failed: {self.name(rank)} has sent no heartbeat for {self.timeout:g} s; it was stopped, or its "
                "machine has failed. To resume, repeat the command")  # fmt: skip
        self.note(text)
        with contextlib.suppress(OSError):
            print(f"{self.command}: {text}", file=sys.stderr, flush=True)


def _wake(beat: dict[str, Any] | None) -> None:
    """Continue a stopped process on this machine, so that it can end itself; nothing else would end it."""
    if beat and beat["host"] == socket.gethostname():
        with contextlib.suppress(OSError):
            os.kill(beat["pid"], signal.SIGCONT)


def _address() -> str:
    """The address of this machine for other machines: the one that it uses towards the rendezvous."""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    family, kind, _, _, place = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:  # to connect a datagram socket sends nothing
        probe.connect(place)
        own = probe.getsockname()[0]
    return os.environ["MASTER_ADDR"] if ipaddress.ip_address(own).is_loopback else own
