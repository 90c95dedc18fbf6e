"""The lines of many callers, decoded together in one thread."""

import sys
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Translation
from s2s.decoding.inputs import Window
from s2s.decoding.translator import Translator
from s2s.errors import UserError


class Full(Exception):
    """More lines wait than may."""


@dataclass
class Counts:
    """What has been decoded.

    Attributes:
        batches, lines: Numbers of them.
        source_tokens, tokens: Of the sources and of the best hypotheses, without EOS.
        seconds: Spent decoding.
    """

    batches: int = 0
    lines: int = 0
    source_tokens: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(eq=False)
class _Job:
    """What one caller wants."""

    sources: list[list[int]]
    config: DecodeConfig
    seed: int
    future: Future = field(default_factory=Future)

    def joins(self, other: "_Job") -> bool:
        """Whether both may be decoded together. Samples depend on a line's number, so a caller's are on their own."""
        return self.config == other.config and self.config.search != "sample"


class Batcher:
    """Decodes what callers submit, oldest first; what asks for the same options goes together.

    Args:
        translator: Decodes.
        batch_lines: Lines that are decoded together; one caller's stay together, if there are more.
        wait: Seconds to wait for more callers after the first.
        waiting_lines: Lines that may wait at most.
    """

    def __init__(self, translator: Translator, batch_lines: int, wait: float, waiting_lines: int):
        self.translator, self.batch_lines, self.wait, self.most = translator, batch_lines, wait, waiting_lines
        self.counts = Counts()
        self.waiting = 0  # lines
        self._jobs: deque[_Job] = deque()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="decoding", daemon=True)
        self._thread.start()

    def submit(
        self, sources: list[list[int]], config: DecodeConfig, seed: int = 1
    ) -> "Future[list[list[Translation]]]":
        """Have source ids decoded. Raises Full where too many lines wait, RuntimeError after `close`."""
        job = _Job(sources, config, seed)
        with self._changed:
            if self._closing:
                raise RuntimeError("closed")
            if self.waiting and self.waiting + len(sources) > self.most:
                raise Full
            self._jobs.append(job)
            self.waiting += len(sources)
            self._changed.notify()
        return job.future

    def close(self) -> None:
        """Finish what was submitted, and end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def _work(self) -> None:
        while jobs := self._take():
            jobs = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            start = time.perf_counter()
            try:
                if jobs:
                    self._decode(jobs)
            except Exception as error:  # a caller hears of it; the next ones go on
                if not isinstance(error, UserError):
                    print(f"s2s-serve: decoding failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                for job in jobs:
                    if not job.future.done():
                        job.future.set_exception(error)
            self.counts.seconds += time.perf_counter() - start

    def _take(self) -> list[_Job]:
        """The jobs of the next batch; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            self._changed.wait_for(lambda: self.waiting >= self.batch_lines or self._closing, self.wait)
            taken, left, lines = [], deque(), 0
            for job in self._jobs:
                if not taken or (job.joins(taken[0]) and lines + len(job.sources) <= self.batch_lines):
                    taken.append(job)
                    lines += len(job.sources)
                else:
                    left.append(job)
            self._jobs = left
            self.waiting -= lines
        return taken

    def _decode(self, jobs: list[_Job]) -> None:
        sources = [source for job in jobs for source in job.sources]
        results = self.translator.decode([Window(sources, None)], jobs[0].config, jobs[0].seed)
        self.counts.batches += 1
        for job in jobs:
            n_bests = [next(results) for _ in job.sources]
            self.counts.lines += len(n_bests)
            self.counts.source_tokens += sum(map(len, job.sources))
            self.counts.tokens += sum(len(n_best[0].ids) for n_best in n_bests)
            job.future.set_result(n_bests)
