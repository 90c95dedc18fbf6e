"""Finds `data.batch_tokens` before training starts, by real updates in a trainer that is thrown away afterwards.

On a GPU it is the largest budget whose update fits into memory, less some head-room; on a CPU, whose memory is rarely
the limit, the one with the best throughput. What is looked at are the first windows of the stages of a run.
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

TOLERANCE = 0.05  # the largest budget is found to this share below it
HEAD_ROOM_PERCENT = 10  # of the largest budget: later windows may be worse, and memory is fragmented in a long run
GAIN = 0.03  # throughput has to rise by this share: less is noise, and smaller batches make more updates of an epoch
LADDER = tuple(512 << i for i in range(8))  # 512 ... 65,536 tokens
TIMED_BATCHES = 8  # of each budget, spread over its plan
TIMED_SECONDS = 2.0  # at least, of each budget


def calibrate(config, task, dataset: Dataset, model: torch.nn.Module, report: Callable[[str], None]) -> int:
    """The budget to train with, `data.batch_tokens`, in units of `data.cost`.

    Args:
        config: The whole resolved train config. On a GPU its data.batch_tokens is the first try.
        task: The task.
        dataset: The training examples.
        model: A model to try with, on its device. Neither it nor the random state is to be used afterwards.
        report: Hears of each try, and of the result, in a line.

    Raises:
        Failure: not even the longest pair alone fits into memory.
        UserError: data.max_length leaves out every pair.
    """
    tries = Tries(config, task, dataset, model, report)
    tries.longest_alone()
    if tries.trainer.device.type == "cuda":
        largest = largest_that_fits(tries.fits, config.data.batch_tokens, tries.ceiling)
        budget, why = head_room(largest), f"{largest} fits, {HEAD_ROOM_PERCENT}% of it are head-room"
    else:
        budget, why = fastest(tries.speed, tries.ladder), f"none that was tried is more than {GAIN:.0%} faster"
        if budget is None:
            raise Failure(f"train.calibrate: data.batch_tokens={tries.ladder[0]} does not fit into memory")
    report(f"calibrate | data.batch_tokens={budget}: {why}")
    del tries
    free()
    return budget


# --- the decisions ---------------------------------------------------------------------------------------------------


def largest_that_fits(fits: Callable[[int], bool], first: int, ceiling: int) -> int:
    """The largest budget of 1 ... ceiling that fits, or up to 5% less: doubled (or halved) from the first try until it
    lies between two tries, then bisected. It ends however `fits` behaves; the result has been tried, unless it is 1,
    which is taken to fit."""
    low, high = 1, ceiling + 1  # low fits; high does not, or is not wanted
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
    """A budget less its head-room."""
    return max(1, budget * (100 - HEAD_ROOM_PERCENT) // 100)


def fastest(speed: Callable[[int], float | None], ladder: Iterable[int]) -> int | None:
    """The budget of a rising ladder with the best throughput; one that is larger has to be clearly faster. Two in a row
    that are not end the search, and so does one that does not fit (None). None where the first does not fit."""
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
    """Size of a batch: rows, padded source and target length."""

    rows: int
    source: int
    target: int

    def __str__(self) -> str:
        return f"{self.rows} x {self.source} source x {self.target} target positions"


class Planned(NamedTuple):
    """A batch that is not put together yet: the arguments of `Dataset.collate`, and what size it will have."""

    examples: np.ndarray
    rows: np.ndarray | None
    draw: Draw
    shape: Shape


class Step(NamedTuple):
    """What an update took: seconds, real target tokens, and the most bytes of GPU memory in use."""

    seconds: float
    tokens: int
    peak: int


class Tries:
    """Updates as the run will make them, on the batches that the run would have with any budget.

    Args: as of `calibrate`.

    Attributes:
        ceiling: A budget beyond which batches do not grow.
        ladder: Budgets to compare, rising, for as many tokens each as LADDER.
        company: How many batches make an update as large as any.
    """

    def __init__(self, config, task, dataset: Dataset, model: torch.nn.Module, report: Callable[[str], None]):
        self.config, self.data, self.dataset, self.report = config, config.data, dataset, report
        # With a learning rate of 0 all tries have the same weights, and no number of them lets these diverge.
        still = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.0, min_lr=0.0))
        if config.train.stages:  # what none of them freezes takes more memory than any of them
            still.train = dataclasses.replace(config.train, stages=[], freeze=[])
        criterion = make_criterion(config, task, next(model.parameters()).device)
        self.trainer = Trainer(still, task, model.train(), criterion, None, None, {})
        self.trainer.interval, self.trainer.may_split = Interval(), False
        # Where gradients are accumulated, those of the first batch are there while the second is computed.
        self.company = min(2, config.train.accumulate)
        self._lengths: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        windows = list(self._windows(self.data.batch_tokens))
        if not any(len(window.examples) for window, *_ in windows):
            raise UserError("data.max_length leaves out every training pair")
        source, target = (np.concatenate(side) for side in zip(*(lengths for *_, lengths in windows), strict=True))
        sentences = max(len(window.examples) for window, *_ in windows)
        if self.data.batching != "packed":
            sentences = min(sentences, self.data.batch_sentences or sentences)
        self.ceiling = math.ceil(sentences * batch_cost(self.data, source.max(), target.max()))
        token = batch_cost(self.data, source, target).sum() / np.maximum(source, target).sum()
        self.ladder = sorted({min(self.ceiling, max(1, round(tokens * token))) for tokens in LADDER})

    def longest_alone(self) -> None:
        """Try the longest pairs, each alone; no budget makes a smaller batch. The first update also makes the
        optimizer's state. Raises Failure for one that does not fit."""
        single = np.ones(1, np.int64) if self.data.batching == "packed" else None
        for window, draw, lengths in self._windows(self.data.batch_tokens):
            for place in self._worst(np.ones(len(window.examples), np.int64), *lengths):
                shape = Shape(1, *(int(side[place]) for side in lengths))
                if self._update([Planned(window.examples[[place]], single, draw, shape)] * self.company) is None:
                    raise Failure(
                        f"train.calibrate: not even a batch of {shape} fits into memory; "
                        "leave out long pairs with data.max_length, or take a smaller model"
                    )

    def fits(self, budget: int) -> bool:
        """Whether the updates on the worst batches of a budget fit into memory."""
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
        """Real target tokens a second with a budget, over batches of every size in its plan; None where they do not
        fit into memory."""
        planned = sorted(self._planned(budget), key=lambda batch: batch.shape.rows * batch.shape.target)
        accumulate = self.config.train.accumulate
        count = min(len(planned), accumulate * -(-TIMED_BATCHES // accumulate))
        chosen = [planned[int((i + 0.5) / count * len(planned))] for i in range(count)]
        steps = [self._update(chosen[-1:])]  # not timed: the first of a size is slow
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
        """The first window of each stage as planned with a budget, and the lengths of its examples."""
        data = dataclasses.replace(self.data, batch_tokens=budget)
        iterator = BatchIterator(self.dataset, data, self.config.seed)
        for stage in range(max(1, len(data.stages))):
            iterator.epoch = 1 + sum(stage.epochs for stage in data.stages[:stage])
            window = iterator.current
            if iterator.epoch not in self._lengths:  # they do not depend on the budget
                self._lengths[iterator.epoch] = _lengths(self.dataset, window.examples)
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
        """Which of the batches of these sizes [n] have the highest cost and the most source positions, target
        positions, weights of the attention to the source, and of all attention."""
        across, everything = source * target, source * source + source * target + target * target
        measures = (batch_cost(self.data, source, target), source, target, across, everything)
        return list(dict.fromkeys(int((rows * measure).argmax()) for measure in measures if len(rows)))

    def _update(self, planned: list[Planned]) -> Step | None:
        """One update on these batches, or None when it does not fit into memory."""
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
        free()  # only now: the error, now gone, kept the frames of the update, and these their tensors
        return None


def _lengths(dataset: Dataset, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Source and target lengths of examples, read in runs of neighbours."""
    runs = np.split(examples, np.flatnonzero(np.diff(examples) != 1) + 1) if len(examples) else []
    parts = [dataset.lengths(int(run[0]), int(run[-1]) + 1) for run in runs]
    empty = np.zeros(0, np.int64)
    return tuple(np.concatenate([empty, *side]) for side in (zip(*parts, strict=True) if parts else ((), ())))


def _shape(batch: np.ndarray, rows: np.ndarray | None, source: np.ndarray, target: np.ndarray) -> Shape:
    """The size of a batch of examples of these lengths, with `rows` of them to each row."""
    sides = source[batch], target[batch]
    if rows is not None:
        sides = (np.add.reduceat(side, np.cumsum(rows) - rows) for side in sides)
    return Shape(len(batch if rows is None else rows), *(int(side.max()) for side in sides))
