"""Pairs and lines without translations in one run: each store is read by the task that it was made for.

`store=[data-bin/pairs,data-bin/lines] task=mixture` trains one model on pairs and on noised lines. The shares of the
stores are those of their corpora (`data.weights`). `data.homogeneous=language` fills a batch from one task, as noised
lines of English are the direction en-en. A symbol of the task before the source is a tag of the stores
(`task.source_tags`). Validation reports metrics of each task.
"""

import dataclasses
from typing import Any

import numpy as np
import torch

from s2s.config.schema import group, option
from s2s.data.batch import ALONE
from s2s.data.iterator import DataConfig, Draw
from s2s.data.split import CorpusRange, Split
from s2s.errors import UserError
from s2s.tasks.denoising import DenoisingConfig, DenoisingTask
from s2s.tasks.symbols import TagSymbolsConfig
from s2s.tasks.translation import PairDataset, TranslationTask
from s2s.text.tokenizer import Tokenizer


@dataclasses.dataclass
class MixtureConfig(TagSymbolsConfig):
    """Options of the task."""

    noise: Any = group("noise", "bart", "what is done to the texts of stores of task=denoising")
    type: str = option("mixture", "component")


class MixtureTask(TranslationTask):
    """As TranslationTask, with DenoisingTask for the stores that were made for it.

    Raises:
        UserError: two vocabularies, or one without the symbols of the noise.
    """

    Config = MixtureConfig
    mixes = True
    decodes_as = TranslationTask

    def __init__(
        self, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer, order: Any = "none", config: Any = None
    ):
        super().__init__(source_tokenizer, target_tokenizer, order, config)
        if self.target_tag:
            raise UserError("task.target_tag: does not go with task=mixture; task.first_tag tells the decoder a tag")
        both = source_tokenizer, target_tokenizer, order
        self.tasks = {"translation": TranslationTask(*both),
                      "denoising": DenoisingTask(*both, DenoisingConfig(noise=self.config.noise))}  # fmt: skip

    def of_store(self, kind: str, where: str) -> TranslationTask:
        """The task that reads stores of a kind, with the tags of the mixture. Raises UserError: there is none."""
        if kind not in self.tasks:
            raise UserError(
                f"{where}: was made for task={kind}; task=mixture reads stores of {' and '.join(self.tasks)}"
            )
        task = self.tasks[kind]
        task.tags, task.first_tag = self.tags, self.first_tag
        return task

    def dataset(self, split: Split) -> "MixedDataset":
        """As in TextTask."""
        return MixedDataset(split, self)

    def inputs(self, split: Split, examples: np.ndarray) -> list[list[int]]:
        """As in TextTask."""
        return self._of_parts(split, examples, "inputs")

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """As in TextTask."""
        return self._of_parts(split, examples, "source_names")

    def _of_parts(self, split: Split, examples: np.ndarray, method: str) -> list:
        """The results of a method of the tasks for examples, in their order."""
        examples, results = np.asarray(examples, np.int64), {}
        for first, last, part in parts(split):
            places = np.flatnonzero((examples >= first) & (examples < last))
            if len(places):
                task = self.of_store(part.task, part.place)
                results |= dict(
                    zip(places.tolist(), getattr(task, method)(part, examples[places] - first), strict=True)
                )
        return [results[place] for place in range(len(examples))]

    def check(self, config: DataConfig, dataset: "MixedDataset") -> None:
        """As in TextTask."""
        self.check_transforms(config)
        for _, _, part in dataset.parts:
            part.task.check(config, part)


def parts(split: Split) -> list[tuple[int, int, Split]]:
    """The first and the last example (not included) of each store of a split, and its part of the split."""
    made, first = [], 0
    for part in split.parts():
        made.append((first, first + len(part), part))
        first += len(part)
    return made


class MixedDataset(PairDataset):
    """The examples of all stores, each as its task makes them.

    Attributes:
        parts: First and last example (not included) of each store, and its dataset.
    """

    task: MixtureTask

    def __init__(self, split: Split, task: MixtureTask):
        super().__init__(split, task)
        self.parts = [(first, last, task.of_store(part.task, part.place).dataset(part))
                      for first, last, part in parts(split)]  # fmt: skip

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """As in PairDataset."""
        sides = [part.lengths(max(first, begin) - begin, min(last, end) - begin)
                 for begin, end, part in self.parts if max(first, begin) < min(last, end)]  # fmt: skip
        if not sides:
            return np.zeros(0, np.int32), np.zeros(0, np.int32)
        source, target = map(np.concatenate, zip(*sides, strict=True))
        return source + len(self.task.source_tags), target

    @property
    def longest(self) -> int:
        """As in TextDataset."""
        return max(part.longest for _, _, part in self.parts) + len(self.task.source_tags)

    def references(self) -> list[str]:
        """As in TextDataset."""
        return [line for _, _, part in self.parts for line in part.references()]

    def group(self, corpus: CorpusRange) -> str:
        """As in TextDataset: the task too."""
        part = next(part for begin, end, part in self.parts if begin <= corpus.first and corpus.last <= end)
        return f"{part.task.config.type}.{super().group(corpus)}"

    def _columns(self, examples: np.ndarray) -> dict[str, torch.Tensor]:
        """As in TextDataset, with `alone`: 1 for the lines without translations, 0 for pairs."""
        alone = np.zeros(len(examples), np.int64)
        for begin, end, part in self.parts:
            alone[(examples >= begin) & (examples < end)] = isinstance(part.task, DenoisingTask)
        return {**super()._columns(examples), ALONE: torch.from_numpy(alone)}

    def _sides(self, examples: np.ndarray, draw: Draw | None):
        """As in PairDataset."""
        rows: list[Any] = [None] * len(examples)
        for begin, end, part in self.parts:
            places = np.flatnonzero((examples >= begin) & (examples < end))
            if not len(places):
                continue
            ((source, lengths),), (shown, target, target_lengths) = part._sides(examples[places] - begin, draw)
            streams = (source, lengths), (shown, target_lengths), (target, target_lengths)
            split = [np.split(values, np.cumsum(sizes)[:-1]) for values, sizes in streams]
            for place, *row in zip(places.tolist(), *split, strict=True):
                rows[place] = row
        source, shown, target = zip(*rows, strict=True)
        sizes = [np.fromiter(map(len, side), np.int64, len(side)) for side in (source, target)]
        source, shown, target = map(np.concatenate, (source, shown, target))
        return [(source, sizes[0])], (shown, target, sizes[1])
