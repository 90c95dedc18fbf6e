"""How the processes of a run watch each other, apart from the exchange of gradients, which waits for hours.

Each has a thread that counts its beats in a store that rank 0 holds. Rank 0 looks at the beats of all, and all the
others at those of rank 0: one that is stopped, or whose machine is gone, is named within the time-out, and ends all.
One that is only slow, in a long validation or a save, goes on beating, as long as native code lets other threads run;
safetensors does from 0.8 on.
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

POLL, GRACE = 0.5, 3.0  # seconds between beats, and that a process has to end by itself
LATE = 8.0  # seconds that a beat may take on a busy machine: what is not heard of till then is gone
NEWS = "news"  # the key of what ended the run: its exit code, and which process is to be woken


class Watch:
    """Threads that end this process when another one has failed or shows no sign of life, and this one, deep in an
    exchange, does not notice. When the launcher is gone, the run is asked to save and stop.

    Args:
        store: Of the rendezvous; it says where the store of beats is.
        rank, size: As of Ranks.
        timeout: Seconds without a beat.

    Attributes:
        update: Of the run, for others to know how far this process has come.
        note: Hears of a process that shows no sign of life.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float):
        self.rank, self.size, self.timeout, self.update = rank, size, timeout, 0
        self.note: Callable[[str], None] = lambda text: None
        self._beats = 0
        self._seen: list[dict[str, Any]] = [{} for _ in range(size)]  # the last beat of each
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
        for work in (self._talk, self._guard):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def fail(self, code: int) -> int | None:
        """Tell the others that this process ends with an exit code. Returns the code of the one that was first, if
        another one was; what happens here came of that."""
        first = None
        with contextlib.suppress(RuntimeError):  # rank 0 is gone
            first = self._news["code"] if self._news else self._tell({"code": code})
            self._stay()
        ending = threading.Timer(LATE, os._exit, [code if first is None else first])  # if not by itself
        ending.daemon = True
        ending.start()
        return first

    def quiet(self) -> list[int]:
        """The ranks that beat no more; none where it is known what ends the run."""
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
        """A process in words: which one, where, and how far it had come."""
        seen = self._seen[rank]
        where = f" (pid {seen['pid']} on {seen['host']}, last seen in update {seen['update']:,})" if seen else ""
        return f"process {rank} of {self.size}{where}"

    # --- the threads -------------------------------------------------------------------------------------------------

    def _talk(self) -> None:
        """Beat, and look at the others."""
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
            except RuntimeError:  # the connection is lost, and so is rank 0 unless this is the end
                return
            self._answers += 1
            for rank in others:  # a look that comes late, because this process was stopped itself, counts as any
                self._silent[rank] = 0.0 if self._seen[rank] != before[rank] else self._silent[rank] + POLL
                if self._silent[rank] >= self.timeout:
                    self._give_up(rank)

    def _guard(self) -> None:
        """See whether the store answers: an answer may take for ever where rank 0 is stopped."""
        answers, silent = 0, 0.0
        while not self._stop.wait(POLL):
            silent = 0.0 if self._answers != answers else silent + POLL
            answers = self._answers
            if silent >= self.timeout and not self._news:
                _wake(self._seen[0])
                telling = threading.Thread(target=self._give_up, args=[0], daemon=True)
                telling.start()
                telling.join(GRACE)
                if telling.is_alive():  # it does not wake
                    self._say(0)
                os._exit(1)

    def _beat(self) -> None:
        self._beats += 1
        beat = {"beats": self._beats, "host": socket.gethostname(), "pid": os.getpid(), "update": self.update}
        self._store.set(f"beat/{self.rank}", json.dumps(beat))

    def _look(self, ranks) -> list[dict[str, Any]]:
        """Read the beats of some ranks. Returns all that are known."""
        keys = [f"beat/{rank}" for rank in ranks]
        there = keys if self._store.check(keys) else [key for key in keys if self._store.check([key])]
        for key, beat in zip(there, self._store.multi_get(there) if there else [], strict=True):
            self._seen[int(key.partition("/")[2])] = json.loads(beat)
        return list(self._seen)

    def _give_up(self, rank: int) -> None:
        """End all, because a process shows no sign of life."""
        first = None
        with contextlib.suppress(RuntimeError):  # rank 0 is gone
            first = self._tell({"code": 1, "wake": self._seen[rank]})
        if first is None:
            self._say(rank)
            self._stay()
            os._exit(1)

    def _tell(self, news: dict[str, Any]) -> int | None:
        """Publish what ends the run. Returns the exit code of what another one has published before."""
        self._news = news
        self._store.set(f"heard/{self.rank}", "")
        if self._store.add("failures", 1) > 1:
            self._news = json.loads(self._store.get(NEWS))
            return self._news["code"]
        self._store.set(NEWS, json.dumps(news))
        _wake(news.get("wake"))
        return None

    def _stay(self) -> None:
        """Rank 0, which holds the store, waits for all that may be alive to hear what ends the run."""
        until = time.monotonic() + LATE
        alive = [f"heard/{rank}" for rank in range(self.size) if rank not in self._gone]
        while self.rank == 0 and alive and not self._store.check(alive) and time.monotonic() < until:
            time.sleep(POLL / 10)

    def _hear(self, news: dict[str, Any]) -> None:
        """End with the exit code of another one, soon if not by itself."""
        self._news = news
        with contextlib.suppress(RuntimeError):  # rank 0 is gone
            self._store.set(f"heard/{self.rank}", "")
        _wake(news.get("wake"))
        time.sleep(GRACE)
        self._stay()
        os._exit(news["code"])

    def _say(self, rank: int) -> None:
        text = (f"failed: {self.name(rank)} has shown no sign of life for {self.timeout:g} s; it was stopped, or its "
                "machine is gone. To go on from the last checkpoint, repeat the command")  # fmt: skip
        self.note(text)
        with contextlib.suppress(OSError):
            print(f"s2s-train: {text}", file=sys.stderr, flush=True)


def _wake(beat: dict[str, Any] | None) -> None:
    """Let a stopped process of this machine go on, so that it learns that it is to end: nobody else could end it."""
    if beat and beat["host"] == socket.gethostname():
        with contextlib.suppress(OSError):
            os.kill(beat["pid"], signal.SIGCONT)


def _address() -> str:
    """Where other machines find this one: the address it has towards the rendezvous."""
    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    family, kind, _, _, place = socket.getaddrinfo(*place, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as one:  # to connect it sends nothing
        one.connect(place)
        own = one.getsockname()[0]
    return os.environ["MASTER_ADDR"] if ipaddress.ip_address(own).is_loopback else own
