"""Decodes the lines of many callers together in one thread, so that no caller waits long for another.

The request whose turn it is starts a batch. Then one line of each caller in turn joins it, if the caller asks for the
same options, until decoding should take about `seconds`, as estimated from the speed so far. A batch that takes longer,
such as a single long line, pauses between two steps for batches of much cheaper lines; they get at most half of the
time. So a short request beside a huge one waits for about two batches. Decoding of a request ends when its caller has
left.
"""

import sys
import threading
import time
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Translation
from s2s.decoding.inputs import NO_TAGS, Window
from s2s.decoding.translator import Translator
from s2s.errors import UserError
from s2s.serving.cost import cost
from s2s.serving.metrics import Metrics
from s2s.tasks.tags import Tags

SHARE = 1 / 4  # a batch pauses for lines that each cost at most this share of its own cost
SOON = 1 / 5  # share of `seconds` that a batch which takes longer works before its first pause, and between pauses
FADING = 0.9  # decay of the weight of earlier batches in the measured speed, for each later batch


class Full(Exception):
    """The queue is full: too many lines are waiting."""


class Closed(Exception):
    """The batcher was closed and accepts no more lines."""


class _Left(Exception):
    """All callers of a batch have left."""


@dataclass(eq=False)
class Job:
    """One request to decode lines.

    Attributes:
        sources: The source of each line, as the task encodes it.
        costs: Cost of each line, as by `cost`.
        config: Decode options.
        seed: Seed of sampling.
        caller: Name of the caller; callers take turns.
        future: Will hold the n-best list of each line; cancelling it withdraws the request.
        tags: Tags of all lines, name -> value.
        prefixes: Token ids with which the translation of each line begins; None: there are none.
        constraints: Phrases that the translation of each line must contain; None: there are none.
        extras: What else the translations get, as arguments of Translator.decode: alignment, attention, timestamps.
        on_line: Called in the decoding thread with the index of each line that is decoded.
        taken: Number of lines that have been given to a batch; lines are taken in order.
        start: Time of the request, in seconds of time.perf_counter.
        results: The n-best list of each line; empty until the line is decoded.
        left: Number of lines that are not decoded yet.
    """

    sources: list
    costs: list[int]
    config: DecodeConfig
    seed: int
    caller: str
    tags: dict[str, str] = field(default_factory=dict)
    prefixes: list[list[int]] | None = None
    constraints: list[list[list[int]]] | None = None
    extras: dict[str, bool] = field(default_factory=dict)
    on_line: Callable[[int], None] | None = None
    future: Future = field(default_factory=Future)
    taken: int = 0
    start: float = field(default_factory=time.perf_counter)

    @classmethod
    def of(cls, translator: Translator, sources: list, config: DecodeConfig, seed: int = 1, caller: str = "",
           tags: Tags = NO_TAGS, prefixes: list[list[int]] | None = None, **more) -> "Job":  # fmt: skip
        """A request to a translator, with the cost of its lines; `more`: further attributes."""
        starts = prefixes or [[]] * len(sources)
        costs = [cost(config, translator.length(source), translator.max_length, len(start))
                 for source, start in zip(sources, starts, strict=True)]  # fmt: skip
        small = [array("i", source) if type(source) is list else source for source in sources]
        return cls(small, costs, config, seed, caller, dict(tags), prefixes, **more)

    def __post_init__(self):
        self.left = len(self.sources)
        self.results: list[list[Translation]] = [[] for _ in self.sources]

    def fits(self, other: "Job") -> bool:
        """Whether lines of both may be decoded together."""
        features = [(job.prefixes is None, job.constraints is None, job.extras) for job in (self, other)]
        return self.config == other.config and features[0] == features[1]

    @property
    def waiting(self) -> int:
        """Number of lines that no batch has taken."""
        return len(self.sources) - self.taken

    def finish(self, error: Exception | None = None) -> None:
        """Give the caller the results or the error, if it still waits."""
        if self.future.done() or not self.future.set_running_or_notify_cancel():
            return
        if error:
            self.future.set_exception(error)
        else:
            self.future.set_result(self.results)


Batch = list[tuple[Job, int]]  # lines: the job and the index of the line in it


class Batcher:
    """Decodes what callers submit, in a thread of its own.

    Args:
        translator: Decodes the batches.
        speed: First estimate of the cost that is decoded in a second; each batch updates it.
        seconds: Longest time of a batch by this estimate.
        batch_lines: Most lines of a batch.
        wait: Seconds to wait for more lines before a batch, when nothing is being decoded.
        waiting_lines: Most waiting lines. When they are exceeded, a caller may still have its equal share of them.
        metrics: Counters to update.
    """

    def __init__(self, translator: Translator, speed: float, seconds: float, batch_lines: int, wait: float,
                 waiting_lines: int, metrics: Metrics | None = None):  # fmt: skip
        self.translator, self.batch_lines, self.wait, self.most = translator, batch_lines, wait, waiting_lines
        self.metrics = metrics or Metrics()
        self.seconds = seconds
        self.waiting = 0  # lines
        self._measured = speed, 1.0  # cost and seconds of the last batches, the last one counts most
        self._queues: OrderedDict[str, deque[Job]] = OrderedDict()  # of callers with lines that wait, in turn
        self._open: set[Job] = set()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="decoding", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> "Future[list[list[Translation]]]":
        """Queue lines to be decoded. Returns the future of their n-best lists; cancelling it ends their decoding.

        Raises:
            Full: too many lines are waiting.
            Closed: `close` or `cancel` was called before.
        """
        with self._changed:
            if self._closing:
                raise Closed
            own = sum(other.waiting for other in self._queues.get(job.caller, ()))
            share = self.most / len({*self._queues, job.caller})
            if self.waiting and self.waiting + job.waiting > self.most and own + job.waiting > share:
                raise Full
            if not job.waiting:
                job.finish()
                return job.future
            self._open.add(job)
            self._queues.setdefault(job.caller, deque()).append(job)
            self._count(job.waiting)
            self._changed.notify()
        job.future.add_done_callback(lambda future: self._forget(job))
        return job.future

    def close(self, timeout: float | None = None) -> bool:
        """Decode what was submitted, then end the thread. Returns whether it ended within `timeout` seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self.alive

    def cancel(self) -> None:
        """Withdraw all requests, and accept no more."""
        with self._changed:
            self._closing = True
            jobs = list(self._open)
        for job in jobs:
            job.future.cancel()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def budget(self) -> float:
        """Cost of a batch that takes `seconds`, at the measured speed."""
        spent, seconds = self._measured
        return self.seconds * spent / seconds

    def _count(self, lines: int) -> None:
        self.waiting += lines
        self.metrics.waiting.set(self.waiting)

    def _forget(self, job: Job) -> None:
        """Remove a request that is answered or was withdrawn."""
        with self._changed:
            self._open.discard(job)
            queue = self._queues.get(job.caller, ())
            if job in queue:
                queue.remove(job)
                self._count(-job.waiting)
            if not queue:
                self._queues.pop(job.caller, None)

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._queues:
                    self._changed.wait_for(lambda: self._queues or self._closing)
                    self._changed.wait_for(lambda: self.waiting >= self.batch_lines or self._closing, self.wait)
                if self._closing and not self._queues:
                    return
            if batch := self._take():
                self._decode(batch)

    def _take(self, most: float = float("inf")) -> Batch:
        """The lines of the next batch, each of which costs at most `most`. Empty if there is no such line."""
        with self._changed:
            jobs = (job for queue in self._queues.values() for job in queue)
            lead = next((job for job in jobs if job.costs[job.taken] <= most), None)
            if lead is None:
                return []
            self._queues.move_to_end(lead.caller)
            self._queues[lead.caller].remove(lead)
            self._queues[lead.caller].append(lead)
            turns = self._turns(lead)
            batch, spent = [], 0
            while turns and len(batch) < self.batch_lines:
                queue = turns.popleft()  # of a caller
                job = queue.popleft()
                price = job.costs[job.taken]
                if not batch or (price <= most and spent + price <= self.budget):
                    if not job.taken:
                        self.metrics.queue.observe(time.perf_counter() - job.start)
                    batch.append((job, job.taken))
                    spent += price
                    job.taken += 1
                    if job.waiting:
                        queue.append(job)
                if queue:
                    turns.append(queue)
            self._count(-len(batch))
            for caller in list(self._queues):
                self._queues[caller] = deque(job for job in self._queues[caller] if job.waiting)
                if not self._queues[caller]:
                    del self._queues[caller]
        return batch

    def _turns(self, lead: Job) -> deque[deque[Job]]:
        """For each caller, its jobs that may share a batch with `lead`. The first one is `lead` itself."""
        if lead.config.searcher().seeded:  # samples depend on the request's seed and the index of the line
            return deque([deque([lead])])
        by_caller = {caller: [job for job in queue if job is not lead and job.fits(lead)]
                 for caller, queue in self._queues.items()}  # fmt: skip
        own = by_caller.pop(lead.caller)
        return deque([deque([lead, *own]), *(deque(jobs) for jobs in by_caller.values() if jobs)])

    def _decode(self, batch: Batch) -> None:
        jobs = {job for job, _ in batch}
        config = batch[0][0].config
        if not config.searcher().seeded:  # so that short lines are answered first
            batch.sort(key=lambda line: line[0].costs[line[1]])
        price = sum(job.costs[i] for job, i in batch)
        soon = SOON * self.seconds
        pause = _Pause(soon if price > self.budget else self.seconds, soon)

        def tick() -> None:
            if all(job.future.done() for job in jobs):
                raise _Left
            if self.waiting and pause.due and (others := self._take(max(self.budget, SHARE * price))):
                pause.spend(lambda: self._decode(others))

        try:
            self._translate(batch, config, tick)
            spent, seconds = self._measured
            self._measured = FADING * spent + price, FADING * seconds + pause.working
        except _Left:
            pass
        except Exception as error:
            self._failed(batch, jobs, error)
        self.metrics.decoding_seconds.inc(pause.working)

    def _failed(self, batch: Batch, jobs: set[Job], error: Exception) -> None:
        """Find the request that caused the error: decode the lines of each one alone. A request that fails alone gets
        the error."""
        if len(jobs) > 1:
            for job in jobs:
                if lines := [(owner, i) for owner, i in batch if owner is job and not owner.results[i]]:
                    self._decode(lines)
            return
        if not isinstance(error, UserError):
            print(f"s2s-serve: decoding failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        jobs.pop().finish(error)

    def _translate(self, batch: Batch, config: DecodeConfig, tick: Callable[[], None]) -> None:
        lead, first = batch[0]
        sources = [job.sources[i] for job, i in batch]
        window = Window([source.tolist() if isinstance(source, array) else source for source in sources],
                        None if lead.prefixes is None else [job.prefixes[i] for job, i in batch],
                        None if lead.constraints is None else [job.constraints[i] for job, i in batch],
                        tags=[job.tags for job, _ in batch])  # fmt: skip
        config = replace(config, on_error="mark")
        results = self.translator.decode([window], config, lead.seed, first=first, tick=tick, **lead.extras)
        self.metrics.batches.inc()
        for (job, i), n_best in zip(batch, results, strict=True):
            job.results[i] = n_best
            job.left -= 1
            if job.on_line:
                job.on_line(i)
            self.metrics.lines.inc()
            self.metrics.failed_lines.inc(n_best[0].error is not None)
            self.metrics.source_tokens.inc(self.translator.length(job.sources[i]))
            self.metrics.target_tokens.inc(len(n_best[0].ids))
            if not job.left:
                job.finish()


class _Pause:
    """Decides when a batch pauses for others: first after `first` seconds of work, later after `seconds`, or after as
    many seconds as the last pause took if that is longer."""

    def __init__(self, first: float, seconds: float):
        self.seconds, self.since, self.before = seconds, time.perf_counter(), 0.0
        self.wanted = first

    @property
    def due(self) -> bool:
        return time.perf_counter() - self.since >= self.wanted

    @property
    def working(self) -> float:
        """Seconds of work, without the pauses."""
        return self.before + time.perf_counter() - self.since

    def spend(self, others: Callable[[], None]) -> None:
        """Pause for `others`."""
        start = time.perf_counter()
        self.before += start - self.since
        others()
        self.since = time.perf_counter()
        self.wanted = max(self.seconds, self.since - start)
