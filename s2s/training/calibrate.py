"""Finds `data.batch_tokens` before training starts, by real updates in a temporary trainer.

The result is the budget with the best throughput: a larger one must be clearly faster. On a GPU, it is also at most the
largest budget whose updates fit into memory, less some headroom. No budget makes fewer than EPOCH_UPDATES updates an
epoch, since a model learns by updates: with ample memory, most of a small corpus would fit into one. Budgets are tried
on the first window of each stage.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from s2s.data.iterator import BatchIterator, Dataset, Draw, Window
from s2s.data.plan import batch_cost
from s2s.device import free, out_of_memory
from s2s.errors import Failure, UserError
from s2s.training.initialise import make_criterion
from s2s.training.report import Interval
from s2s.training.trainer import Trainer

TOLERANCE = 0.05  # the result may be below the largest budget by this share
HEAD_ROOM_PERCENT = 10  # of the largest budget: later windows may need more, and memory fragments in a long run
GAIN = 0.03  # minimum gain in throughput: less is noise, and smaller batches make more updates per epoch
LADDER = {"cpu": tuple(512 << i for i in range(8)), "cuda": tuple(512 << i for i in range(10))}  # tokens
EPOCH_UPDATES = 50  # minimum number of updates of an epoch, unless the smallest budget of the ladder makes fewer
TIMED_BATCHES = 8  # batches timed for each budget, spread over its plan
TIMED_SECONDS = 2.0  # minimum time for each budget


def calibrate(config, task, dataset: Dataset, model: torch.nn.Module, report: Callable[[str], None]) -> int:
    """Find the best `data.batch_tokens`, in units of `data.cost`.

    Args:
        config: The resolved train config.
        task: The task.
        dataset: The training examples.
        model: A model for the trials, on its device. Neither it nor the random state may be used afterwards.
        report: Called with a line about each trial, and about the result.

    Raises:
        Failure: not even the longest pair by itself fits into memory.
        UserError: data.max_length leaves out every pair.
    """
    tries = Tries(config, task, dataset, model, report)
    tries.longest_alone()
    ladder = tries.ladder
    if tries.trainer.device.type == "cuda":
        largest = head_room(largest_that_fits(tries.fits, ladder[0], -(-100 * ladder[-1] // (100 - HEAD_ROOM_PERCENT))))
        ladder = [*(budget for budget in ladder if budget < largest), min(largest, ladder[-1])]
    budget, why = fastest(tries.speed, ladder), f"no other budget tried is more than {GAIN:.0%} faster"
    if budget is None:
        raise Failure(f"train.calibrate: data.batch_tokens={ladder[0]} does not fit into memory")
    if budget == ladder[-1]:
        why = tries.limit if ladder == tries.ladder else f"more does not fit with {HEAD_ROOM_PERCENT}% of headroom"
    report(f"calibrate | data.batch_tokens={budget}: {why}")
    del tries
    free()
    return budget


# --- the decisions ---------------------------------------------------------------------------------------------------


def largest_that_fits(fits: Callable[[int], bool], first: int, ceiling: int) -> int:
    """The largest budget of 1 ... ceiling that fits, or up to 5% less.

    The budget is doubled (or halved) from `first` until the largest one lies between two trials; then it is bisected.
    The search ends however `fits` behaves. The result has been tried, except 1, which is assumed to fit.
    """
    low, high = 1, ceiling + 1  # low fits; high does not, or is not allowed
    budget = min(first, ceiling)
    while low < (1 - TOLERANCE) * (high - 1):
        if fits(budget):
            low = budget
        else:
            high = budget
        if high > ceiling:
            budget = min(2 * low, ceiling)
        elif low == 1:
            budget = max(2, high // 2)
        else:
            budget = (low + high) // 2
    return low


def head_room(budget: int) -> int:
    """A budget less its headroom."""
    return max(1, budget * (100 - HEAD_ROOM_PERCENT) // 100)


def fastest(speed: Callable[[int], float | None], ladder: Iterable[int]) -> int | None:
    """The budget with the best throughput; a larger budget must be clearly faster.

    The search ends after two consecutive budgets that are not, or at one that does not fit.

    Args:
        speed: Throughput of a budget; None: it does not fit.
        ladder: Budgets in rising order.

    Returns:
        The budget; None: the first does not fit.
    """
    best, best_speed, behind = None, 0.0, 0
    for budget in ladder:
        now = speed(budget)
        if now is None:
            break
        if now > (1 + GAIN) * best_speed:
            best, best_speed, behind = budget, now, 0
        else:
            behind += 1
        if behind == 2:
            break
    return best


# --- the tries -------------------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """The size of a batch: rows, and padded source and target length."""

    rows: int
    source: int
    target: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.source} source x {self.target} target positions"


class Planned(NamedTuple):
    """A batch that is planned: the arguments of `Dataset.collate`, and its size."""

    examples: np.ndarray
    rows: np.ndarray | None
    draw: Draw
    shape: Shape


class Step(NamedTuple):
    """The cost of an update: seconds, target tokens without padding, and peak GPU memory in bytes."""

    seconds: float
    tokens: int
    peak: int


class Tries:
    """Tries updates like those of the run, on the batches that the run would have with a given budget.

    Args: as in `calibrate`.

    Attributes:
        ceiling: A budget above which batches do not grow.
        ladder: Budgets to compare, in rising order, which correspond to the numbers of tokens in LADDER.
        limit: Why there is no larger one, for the report.
        company: Number of batches for an update that needs as much memory as any.
    """

    def __init__(self, config, task, dataset: Dataset, model: torch.nn.Module, report: Callable[[str], None]):
        self.config, self.data, self.dataset, self.report = config, config.data, dataset, report
        # With a learning rate of 0 all trials have the same weights, which cannot diverge.
        still = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.0, min_lr=0.0))
        if config.train.stages:  # without frozen parameters, an update takes the most memory
            still.train = dataclasses.replace(config.train, stages=[], freeze=[])
        criterion = make_criterion(config, task, next(model.parameters()).device)
        self.trainer = Trainer(still, task, model.train(), criterion, None, None, {})
        self.trainer.interval, self.trainer.may_split = Interval(), False
        # If gradients are accumulated, those of the first batch are in memory while the second is computed.
        self.company = min(2, config.train.accumulate)
        self._lengths: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # first epoch of a stage -> of its first window
        self._counts: dict[int, int] = {}  # the same -> windows of the epoch
        windows = list(self._windows(self.data.batch_tokens))
        if not any(len(window.examples) for window, *_ in windows):
            raise UserError("data.max_length leaves out every training pair")
        source, target = (np.concatenate(side) for side in zip(*(lengths for *_, lengths in windows), strict=True))
        sentences = max(len(window.examples) for window, *_ in windows)
        if self.data.batching != "packed":
            sentences = min(sentences, self.data.batch_sentences or sentences)
        self.ceiling = math.ceil(sentences * batch_cost(self.data, source.max(), target.max()))
        token = batch_cost(self.data, source, target).sum() / np.maximum(source, target).sum()
        rungs = [max(1, round(tokens * token)) for tokens in LADDER[self.trainer.device.type]]
        updates = config.distributed.processes * config.train.accumulate * EPOCH_UPDATES
        # With this budget, an epoch of any stage has EPOCH_UPDATES updates.
        most = min(self._counts[epoch] * batch_cost(self.data, *sides).sum() / updates
                   for epoch, sides in self._lengths.items())  # fmt: skip
        self.ladder = sorted({min(self.ceiling, rung) for rung in rungs if rung <= max(most, rungs[0])})
        self.limit = f"a larger one would make fewer than {EPOCH_UPDATES} updates an epoch"
        if self.ladder[-1] in (self.ceiling, rungs[-1]):
            self.limit = "no larger one was tried"

    def longest_alone(self) -> None:
        """Try the longest pairs, each by itself: no budget makes a smaller batch. The first update also allocates the
        state of the optimizer. Raises Failure if a pair does not fit."""
        single = np.ones(1, np.int64) if self.data.batching == "packed" else None
        for window, draw, lengths in self._windows(self.data.batch_tokens):
            for place in self._worst(np.ones(len(window.examples), np.int64), *lengths):
                shape = Shape(1, *(int(side[place]) for side in lengths))
                if self._update([Planned(window.examples[[place]], single, draw, shape)] * self.company) is None:
                    raise Failure(
                        f"train.calibrate: not even a batch of {shape} fits into memory; "
                        "leave out long pairs with data.max_length, or use a smaller model"
                    )

    def fits(self, budget: int) -> bool:
        """Whether updates with the worst batches of a budget fit into memory."""
        torch.cuda.empty_cache()
        planned, peaks = self._planned(budget), []
        for place in self._worst(*np.array([batch.shape for batch in planned], np.int64).T):
            step = self._update([planned[place]] * self.company)
            if step is None:
                self.report(f"calibrate | data.batch_tokens {budget} | does not fit: {planned[place].shape}")
                return False
            peaks.append((step.peak, planned[place].shape))
        peak, shape = max(peaks)
        self.report(f"calibrate | data.batch_tokens {budget} | fits: {shape} take {peak / 2**30:.2f} GiB")
        return True

    def speed(self, budget: int) -> float | None:
        """Target tokens per second (without padding) with a budget, over batches of all sizes in its plan. None: they
        do not fit into memory."""
        planned = sorted(self._planned(budget), key=lambda batch: batch.shape.rows * batch.shape.target)
        accumulate = self.config.train.accumulate
        count = min(len(planned), accumulate * -(-TIMED_BATCHES // accumulate))
        chosen = [planned[int((i + 0.5) / count * len(planned))] for i in range(count)]
        steps = [self._update(chosen[-1:])]  # not timed: the first update of a size is slow
        while None not in steps and sum(step.seconds for step in steps[1:]) < TIMED_SECONDS:
            steps += [self._update(chosen[start : start + accumulate]) for start in range(0, count, accumulate)]
        if None in steps:
            self.report(f"calibrate | data.batch_tokens {budget} | does not fit: up to {chosen[-1].shape}")
            return None
        speed = sum(step.tokens for step in steps[1:]) / sum(step.seconds for step in steps[1:])
        self.report(
            f"calibrate | data.batch_tokens {budget} | {speed:.0f} target tokens/s, with up to {chosen[-1].shape}"
        )
        return speed

    def _windows(self, budget: int) -> Iterator[tuple[Window, Draw, tuple[np.ndarray, np.ndarray]]]:
        """The first window of each stage, planned with a budget, and the lengths of its examples."""
        data = dataclasses.replace(self.data, batch_tokens=budget)
        iterator = BatchIterator(self.dataset, data, self.config.seed)
        for stage in range(max(1, len(data.stages))):
            iterator.epoch = 1 + sum(stage.epochs for stage in data.stages[:stage])
            window = iterator.current
            if iterator.epoch not in self._lengths:  # they do not depend on the budget
                self._lengths[iterator.epoch] = _lengths(self.dataset, window.examples)
                self._counts[iterator.epoch] = iterator.windows
            draw = Draw(iterator.stage(iterator.epoch), self.config.seed, iterator.epoch)
            yield window, draw, self._lengths[iterator.epoch]

    def _planned(self, budget: int) -> list[Planned]:
        """The batches of these windows."""
        planned = []
        for window, draw, lengths in self._windows(budget):
            for number, batch in enumerate(window.plan.batches):
                if len(batch):  # in the last group there may be none for some ranks
                    rows = window.plan.rows and window.plan.rows[number]
                    planned.append(Planned(window.examples[batch], rows, draw, _shape(batch, rows, *lengths)))
        return planned

    def _worst(self, rows: np.ndarray, source: np.ndarray, target: np.ndarray) -> list[int]:
        """The indices of the batches with the highest cost, and with the most source positions, target positions,
        cross-attention weights, and attention weights in all. Arguments: sizes of the batches, [n] each."""
        across, everything = source * target, source * source + source * target + target * target
        measures = (batch_cost(self.data, source, target), source, target, across, everything)
        return list(dict.fromkeys(int((rows * measure).argmax()) for measure in measures if len(rows)))

    def _update(self, planned: list[Planned]) -> Step | None:
        """Run one update on these batches; None: it does not fit into memory."""
        device = self.trainer.device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            batches = [self.dataset.collate(batch.examples, batch.rows, batch.draw) for batch in planned]
            started = time.perf_counter()
            self.trainer._update(batches)
            self.trainer._settle()
            seconds = time.perf_counter() - started
        except (RuntimeError, MemoryError, Failure) as error:
            if not out_of_memory(error):
                raise
        else:
            peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
            return Step(seconds, sum(batch.counts.target for batch in batches), peak)
        self.trainer.optimizer.zero_grad()
        free()  # here, since the error has kept the frames of the update, and these their tensors
        return None


def _lengths(dataset: Dataset, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source and target lengths of examples; consecutive examples are read together."""
    runs = np.split(examples, np.flatnonzero(np.diff(examples) != 1) + 1) if len(examples) else []
    lengths = [dataset.lengths(int(run[0]), int(run[-1]) + 1) for run in runs]
    empty = np.zeros(0, np.int64)
    return tuple(np.concatenate([empty, *side]) for side in (zip(*lengths, strict=True) if lengths else ((), ())))


def _shape(batch: np.ndarray, rows: np.ndarray | None, source: np.ndarray, target: np.ndarray) -> Shape:
    """The size of a batch of examples of these lengths; rows: how many examples each row has."""
    sides = source[batch], target[batch]
    if rows is not None:
        sides = (np.add.reduceat(side, np.cumsum(rows) - rows) for side in sides)
    return Shape(len(batch if rows is None else rows), *(int(side.max()) for side in sides))
