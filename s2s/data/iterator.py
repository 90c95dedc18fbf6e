"""Endless training batches. The position is exact at every batch, and is restored without replaying data."""

import collections
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from s2s.config.schema import option
from s2s.data.batch import Batch
from s2s.data.epoch import grouped_quotas, quotas, window, window_count
from s2s.data.plan import Plan, PlanConfig, kept_together, plan
from s2s.data.split import CorpusRange
from s2s.data.transforms import TransformConfig
from s2s.errors import UserError

Item, Result = TypeVar("Item"), TypeVar("Result")


@dataclasses.dataclass
class StageConfig:
    """A stage of a curriculum: options that replace those of `data` for some epochs; null: as in `data`."""

    epochs: int = option(1, "epochs of this stage; the last stage lasts to the end", at_least=1)
    weights: list[float] | None = option(None, "as data.weights")
    temperature: float | None = option(None, "as data.temperature", at_least=1)
    max_length: int | None = option(None, "as data.max_length", at_least=1)
    word_dropout: float | None = option(None, "as data.word_dropout", at_least=0, below=1)
    prev_output_mask: float | None = option(None, "as data.prev_output_mask", at_least=0, below=1)
    character_noise: float | None = option(None, "as data.character_noise", at_least=0, below=1)


@dataclasses.dataclass
class DataConfig(TransformConfig, PlanConfig):
    """Options of the training data: `data.*` of s2s-train."""

    pool: int = option(
        1 << 20,
        "examples planned together, which bounds memory; with fewer, batches are more mixed and have more padding",
        at_least=1,
    )
    group: int | None = option(
        None,
        "consecutive batches of similar lengths, one for each process; null: the number of processes",
        at_least=1,
    )
    max_length: int | None = option(None, "drop and count training examples with a longer side, in tokens", at_least=1)
    weights: list[float] = option(
        [], "weight of each training corpus in the mixture; empty: by size and temperature", at_least=0
    )
    temperature: float = option(
        1.0, "weights of corpora are size^(1/temperature); 1: every example once per epoch", at_least=1
    )
    shares: str = option(
        "corpus", "what data.weights and data.temperature divide an epoch among: corpora; or pairs of languages in "
        "their order, and in a pair the corpora by size", ("corpus", "language"),
    )  # fmt: skip
    homogeneous: str = option(
        "none", "fill each batch from a single corpus or language", ("none", "corpus", "language")
    )
    stages: list[StageConfig] = option([], "a curriculum, such as [{epochs:2,max_length:20},{word_dropout:0.1}]")
    verify: bool = option(True, "verify all training data before training; false: verify each part when it is read")

    @property
    def with_stages(self) -> list:
        """These options, and those of each stage."""
        return [self, *self.stages]


class Draw(NamedTuple):
    """The options, seed and epoch of data augmentation. With the number of an example, they determine its random
    numbers."""

    config: TransformConfig
    seed: int
    epoch: int


class Dataset(Protocol):
    """Examples with known lengths (EOS included), of which batches can be made.

    Attributes:
        corpora: The range of examples of each corpus; together they are all examples.
        source_seconds: Seconds of audio per source position; None: sources are text.
    """

    corpora: list[CorpusRange]
    source_seconds: float | None

    def __len__(self) -> int: ...

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target lengths of the examples first ... last - 1."""

    def collate(self, examples: np.ndarray, rows: np.ndarray | None, draw: Draw | None) -> Batch:
        """Make a batch of examples; rows: how many examples each row has; without `draw` they are not augmented."""


class Window(NamedTuple):
    """A planned part of an epoch.

    Attributes:
        examples: Numbers of examples, int64.
        plan: Its batches are indices into `examples`.
        left_out: How many examples are too long.
    """

    examples: np.ndarray
    plan: Plan
    left_out: int


class BatchIterator:
    """Batches of one epoch after another. The batches of an epoch depend only on seed, epoch and config.

    Args:
        dataset: The examples.
        config: How batches are made.
        seed: Seed of the order and of augmentation.
        workers: Threads that make batches ahead of time; 0: batches are made on demand. The batches are the same.
        pin_memory: Whether to put batches into page-locked memory, from which copies to a GPU are asynchronous.
        rank: Number of this process, from 0. All processes make the same plans, and each takes one batch of a group. So
            together they visit the epoch of a single process.
        ranks: Number of processes.

    Raises:
        UserError: the options do not fit the corpora or the data.
    """

    def __init__(self, dataset: Dataset, config: DataConfig, seed: int, workers: int = 1, pin_memory: bool = False,
                 rank: int = 0, ranks: int = 1):  # fmt: skip
        self.dataset, self.config, self.seed, self.workers = dataset, config, seed, workers
        self.pin_memory, self.rank, self.ranks = pin_memory, rank, ranks
        self.epoch, self.window, self.position = 1, 0, 0
        self.group = self._group = config.group or ranks
        self.reorders: list[list[int]] = []  # each: epoch, window and position from which it holds, and its number
        self._sizes = [corpus.last - corpus.first for corpus in dataset.corpora]
        self._planned: tuple[tuple[int, int, int], Window] | None = None
        self._check()

    # --- the position --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict:
        """The position: batch `position` (from 0) of `window` (from 0) of `epoch` (from 1) is next. Batches are counted
        over all ranks, and planned in groups of `group`; `reorders` are the calls of `reorder`."""
        position = {"epoch": self.epoch, "window": self.window, "position": self.position, "group": self.group}
        return {**position, "reorders": self.reorders}

    def load_state_dict(self, state: dict) -> None:
        """Go to a position. If it was saved with another number of ranks, its epoch keeps the groups of then."""
        self.epoch, self.window, self.position = state["epoch"], state["window"], state["position"]
        self.group, self.reorders = state["group"], state.get("reorders", [])
        self._planned = None

    def reorder(self, number: int) -> None:
        """Change the order of the batches after the position; each number gives another order. An epoch still has the
        same examples."""
        self.reorders = [*self.reorders, [self.epoch, self.window, self.position, number]]
        self._planned = None

    # --- facts ---------------------------------------------------------------------------------------------------

    def stage(self, epoch: int) -> DataConfig:
        """The config of an epoch."""
        return next(config for last, config in self._stages() if last is None or epoch <= last)

    @property
    def unit(self) -> str:
        """The unit of source lengths, and of the budget of a batch (except with data.cost=target)."""
        return "tokens" if self.dataset.source_seconds is None else "frames"

    @property
    def windows(self) -> int:
        """The number of windows of this epoch."""
        return window_count(self.visited, self.config.pool)

    @property
    def visited(self) -> list[int]:
        """How many examples of each corpus this epoch visits."""
        return self._visited(self.stage(self.epoch))

    def kept_together(self) -> float:
        """The share of pairs of examples in the same batch, in this window, that will be so in the next epoch, too."""
        number = min(self.window, self.windows - 1)
        again = self._plan(self.epoch, number, self.group, again=True)
        return kept_together(self.current.plan, again.plan) / self.windows

    @property
    def current(self) -> Window:
        """The window at the position."""
        key = (self.epoch, min(self.window, self.windows - 1), self.group)
        if self._planned is None or self._planned[0] != key:
            self._planned = (key, self._plan(*key))
        return self._planned[1]

    # --- the batches ---------------------------------------------------------------------------------------------

    def rest_of_epoch(self) -> Iterator[Batch | None]:
        """The batches from the position to the end of the epoch, one at a time."""
        for (batch,) in self.updates():
            yield batch

    def updates(self, accumulate: int = 1) -> Iterator[list[Batch | None]]:
        """The batches of each update, from the position to the end of the epoch.

        An update has `accumulate` batches on each rank, fewer at the end of the epoch. The position moves with each
        update that is yielded; after the last one it is the start of the next epoch.

        All ranks have the same number of updates and of places per update. Place p of rank r has batch p * ranks + r of
        the update, however an update is divided into places and ranks. A place is None if there is no batch left for
        the rank; at least one rank has a batch in every update.
        """
        config = self.stage(self.epoch)
        draw = Draw(config, self.seed, self.epoch)

        def collate(place: tuple[int, int, Window]) -> tuple[int, int, Batch | None, bool]:
            number, first, planned = place
            batches, index = planned.plan.batches, first + self.rank
            any_rank = any(len(batch) for batch in batches[first : first + self.ranks])
            if index >= len(batches) or not len(batches[index]):
                return number, first, None, any_rank
            rows = planned.plan.rows and planned.plan.rows[index]
            batch = self.dataset.collate(planned.examples[batches[index]], rows, draw)
            return number, first, batch.pin_memory() if self.pin_memory else batch, any_rank

        places: list[Batch | None] = []
        has_batch = False
        for number, first, batch, any_rank in prefetch(collate, self._places(), self.workers):
            self.window, self.position = number, first + self.ranks
            places, has_batch = [*places, batch], has_batch or any_rank
            if len(places) == accumulate:
                if has_batch:
                    yield places
                places, has_batch = [], False
        if has_batch:
            yield places
        self.epoch, self.window, self.position, self.group = self.epoch + 1, 0, 0, self._group

    def _places(self) -> Iterator[tuple[int, int, Window]]:
        """Window and first batch of each step from the position on. The next window is planned in a thread."""
        epoch, group, count, start = self.epoch, self.group, self.windows, self.position
        with ThreadPoolExecutor(1) as planner:
            planned = self.current
            for number in range(self.window, count):
                following = planner.submit(self._plan, epoch, number + 1, group) if number + 1 < count else None
                for first in range(start, len(planned.plan.batches), self.ranks):
                    yield number, first, planned
                start = 0
                if following:
                    planned = following.result()
                    self._planned = ((epoch, number + 1, group), planned)

    def _plan(self, epoch: int, number: int, group: int, again: bool = False) -> Window:
        """Plan a window of an epoch in groups; `again`: with different random numbers."""
        config = self.stage(epoch)
        ranges = window(self._sizes, self._begin(epoch), self._visited(config), config.pool, number, self.seed)
        examples, lengths, corpora = [], [], []
        for corpus, (facts, parts) in enumerate(zip(self.dataset.corpora, ranges, strict=True)):
            for start, stop in parts:
                examples.append(np.arange(facts.first + start, facts.first + stop))
                lengths.append(self.dataset.lengths(facts.first + start, facts.first + stop))
                corpora.append(np.full(stop - start, corpus))
        everything = np.concatenate(examples)
        source, target = (np.concatenate(side) for side in zip(*lengths, strict=True))
        tags = self._tags(config, np.concatenate(corpora))
        if config.max_length is not None:
            longer = np.maximum(source, target)
            keep = longer <= config.max_length
            if not keep.any() and self.windows == 1:
                shortest = f"the shortest one has {longer.min()} {self.unit}"
                raise UserError(f"data.max_length={config.max_length} leaves out every pair: {shortest}")
            everything, source, target = everything[keep], source[keep], target[keep]
            tags = tags if tags is None else tags[keep]
        rng = np.random.default_rng([self.seed, epoch, number, again])
        batches = plan(source, target, config, rng, group, tags)
        batches = self._reordered(batches, epoch, number, group)
        return Window(everything, batches, sum(map(len, examples)) - len(everything))

    def _reordered(self, planned: Plan, epoch: int, number: int, group: int) -> Plan:
        """Apply the calls of `reorder` to the plan of a window; groups stay together."""
        order = np.arange(len(planned.batches)).reshape(-1, group)
        for *since, position, salt in self.reorders:
            if since <= [epoch, number]:
                first = -(-position // group) if since == [epoch, number] else 0
                rng = np.random.default_rng([self.seed, epoch, number, salt, 2])
                order[first:] = rng.permutation(order[first:])
        places = order.flatten().tolist()
        rows = planned.rows and [planned.rows[place] for place in places]
        return dataclasses.replace(planned, batches=[planned.batches[place] for place in places], rows=rows)

    def _tags(self, config: DataConfig, corpora: np.ndarray) -> np.ndarray | None:
        """For data.homogeneous, the number of each example's corpus or language, from its corpus; None: not used."""
        if config.homogeneous == "none":
            return None
        if config.homogeneous == "corpus":
            return corpora
        languages = self._languages()
        return np.array([languages.index(pair) for pair in languages])[corpora]

    def _languages(self) -> list[tuple[str, str]]:
        """The pair of languages of each corpus."""
        return [(corpus.source_language, corpus.target_language) for corpus in self.dataset.corpora]

    def _stages(self) -> list[tuple[int | None, DataConfig]]:
        """The last epoch (None: it has none) and the config of each stage."""
        stages, last = [], 0
        for stage in self.config.stages:
            last += stage.epochs
            other = {key: value for key, value in vars(stage).items() if key != "epochs" and value is not None}
            stages.append((last, dataclasses.replace(self.config, **other)))
        return [*stages[:-1], (None, stages[-1][1] if stages else self.config)]

    def _visited(self, config: DataConfig) -> list[int]:
        if config.shares == "corpus":
            return quotas(self._sizes, config.weights or None, config.temperature)
        return grouped_quotas(self._sizes, self._languages(), config.weights or None, config.temperature)

    def _begin(self, epoch: int) -> list[int]:
        """How many examples of each corpus the epochs before this one visit."""
        begin, before = np.zeros(len(self._sizes), np.int64), 0
        for last, config in self._stages():
            until = epoch - 1 if last is None else min(last, epoch - 1)
            if until > before:
                begin += (until - before) * np.array(self._visited(config), np.int64)
                before = until
        return begin.tolist()

    def _check(self) -> None:
        names = [corpus.name for corpus in self.dataset.corpora]
        pairs = list(dict.fromkeys(map("-".join, self._languages())))
        sharing, unit = (names, "corpora") if self.config.shares == "corpus" else (pairs, "pairs of languages")
        for _, config in self._stages():
            if config.temperature != 1 and len(sharing) == 1:
                only = {"corpora": "training corpus", "pairs of languages": "pair of languages"}[unit]
                raise UserError(
                    f"data.temperature={config.temperature:g}: does nothing, since there is only one {only}"
                )
            if config.weights and len(config.weights) != len(sharing):
                raise UserError(
                    f"data.weights={config.weights}: requires a weight for each of the {len(sharing)} training {unit}: "
                    + ", ".join(sharing)
                )
            if config.weights and (min(config.weights) < 0 or not sum(config.weights)):
                raise UserError(f"data.weights={config.weights}: no weight may be negative, and one must be above 0")
            if config.shares != "corpus" and not config.weights and config.temperature == 1:
                raise UserError(f"data.shares={config.shares}: does nothing without data.weights or data.temperature")
            if config.weights and config.temperature != 1:
                raise UserError("data.weights and data.temperature exclude each other; choose one of them")
        kind = self.config.homogeneous
        if kind != "none" and len(set(names if kind == "corpus" else self._languages())) < 2:
            raise UserError(f"data.homogeneous={kind}: does nothing, since all training examples have the same {kind}")
        if self.config.cost == "frames" and self.dataset.source_seconds is None:
            raise UserError("data.cost=frames requires recordings, and the source is text; use data.cost=source")
        if len(self.config.buckets) not in ((0, 2) if self.config.batching == "bucket_2d" else (0, 1)):
            raise UserError(f"data.buckets={self.config.buckets}: bucket_1d requires one number, bucket_2d two")


def prefetch(work: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """The results of `work`, in the order of the items; threads compute some of them in advance."""
    if not workers:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque = collections.deque()
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 2 * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
