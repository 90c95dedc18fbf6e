"""Denoising: the model restores texts, or parts of them, from noised copies; it is trained further on pairs afterwards.

Sources and targets are made of the targets of a store, anew in each epoch, from (seed, epoch, example). Validation has
the same noise each time.
"""

import dataclasses
from typing import Any

import numpy as np

from s2s import registry
from s2s.config.schema import group, option
from s2s.data.iterator import DataConfig, Draw
from s2s.data.split import Split
from s2s.data.transforms import seeds
from s2s.errors import UserError
from s2s.tasks.symbols import FirstTagConfig
from s2s.tasks.text import TEXT, TOKENS
from s2s.tasks.translation import PairDataset, TranslationTask
from s2s.text.tokenizer import Tokenizer

SIDES_DIFFER = "task=denoising: requires one vocabulary for sources and targets; make the store with task=denoising"


@dataclasses.dataclass
class DenoisingConfig(FirstTagConfig):
    """Options of the task."""

    noise: Any = group("noise", "bart", "what is done to texts")
    type: str = option("denoising", "component")


class DenoisingTask(TranslationTask):
    """As TranslationTask; sources and targets are made of the targets of a store, whatever its sources are.

    Raises:
        UserError: two vocabularies, or one without the symbols of the noise.
    """

    Config = DenoisingConfig

    def __init__(
        self, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer, order: Any = "none", config: Any = None
    ):
        super().__init__(source_tokenizer, target_tokenizer, order, config)
        if not self.shared_vocabulary:
            raise UserError(SIDES_DIFFER)
        noise = self.config.noise
        self.noise = registry.find("noise", noise.type)(noise, target_tokenizer.vocabulary)

    def dataset(self, split: Split) -> "NoisedDataset":
        """As in TextTask."""
        return NoisedDataset(split, self)

    def inputs(self, split: Split, examples: np.ndarray) -> list[list[int]]:
        """Sources of examples as in validation."""
        return [row.tolist() for row in NoisedDataset(split, self).rows(examples, None)[0]]

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """The noised texts."""
        symbols = self.source_tokenizer.vocabulary.symbols
        return [" ".join(symbols[i] for i in row) for row in self.inputs(split, examples)]

    def check(self, config: DataConfig, dataset: PairDataset) -> None:
        """As in TextTask."""
        self.check_transforms(config)
        for key in ("character_noise", "word_dropout"):
            if any(getattr(stage, key) for stage in config.with_stages):
                raise UserError(f"data.{key}: task=denoising has its own noise (task.noise); leave it out")
        if any(registry.find("transform", options.type).stream == "source" for options in config.transforms.values()):
            raise UserError("data.transforms: task=denoising has its own noise of sources (task.noise)")
        if self.target_tokenizer.sampling and TEXT not in dataset.split:
            raise UserError(
                "tokenizer.sampling requires the raw text of the train split; make the store with keep_text=true"
            )


class NoisedDataset(PairDataset):
    """The targets of a split as noised sources, and what is to be written."""

    task: DenoisingTask

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """The most tokens of sources and targets, EOS included, int32 [examples] each."""
        texts = self.split.lengths(TOKENS, first, last)
        return tuple(np.where(texts, side, 0).astype(np.int32) + 1 for side in self.task.noise.most(texts))

    @property
    def longest(self) -> int:
        """As in TextDataset."""
        texts = np.arange(1, self.split.longest(TOKENS) + 1)
        return max((int(side.max(initial=0)) + 1 for side in self.task.noise.most(texts)), default=1)

    def references(self) -> list[str]:
        """As in TextDataset: the whole texts, or what the noise makes the target of."""
        lines, targets = super().references(), self.rows(np.arange(len(self)), None)[1]
        sizes = self.split.lengths(TOKENS).tolist()
        return [line if len(target) == size else self.task.text(target.tolist(), [])
                for line, target, size in zip(lines, targets, sizes, strict=True)]  # fmt: skip

    def rows(self, examples: np.ndarray, draw: Draw | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Sources and targets of examples, without EOS. draw: as in `collate`."""
        ids, lengths = self._target(examples, draw)
        seed, epoch = (draw.seed, draw.epoch) if draw else (0, 0)
        random = seeds(seed, epoch, examples, "noise").tolist()
        pairs = [self.task.noise(row, np.random.default_rng(number)) if len(row) else (row, row)
                 for row, number in zip(np.split(ids, np.cumsum(lengths)[:-1]), random, strict=True)]  # fmt: skip
        sources, targets = zip(*pairs, strict=True)
        return list(sources), list(targets)

    def _sides(self, examples: np.ndarray, draw: Draw | None):
        """As in PairDataset."""
        (source, lengths), target = map(_flat, self.rows(examples, draw))
        return [(source, lengths)], self._framed(*target, examples, draw)


def _flat(rows: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated ids of rows, and their lengths."""
    return np.concatenate(rows).astype(np.int64), np.fromiter(map(len, rows), np.int64, len(rows))
