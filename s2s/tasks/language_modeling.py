"""Language modelling: learns the targets of a store, whatever its sources are, for `decode.language_model`."""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from s2s.config.schema import option
from s2s.data.batch import Source
from s2s.data.iterator import DataConfig, Draw
from s2s.data.spec import Spec
from s2s.data.split import Split
from s2s.data.store import Store, Stores
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.text import TEXT, TOKENS, TextTask
from s2s.tasks.translation import PairDataset
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import EOS


@dataclasses.dataclass
class LanguageModelingConfig:
    """Options of the task."""

    type: str = option("language_modeling", "component")


class LanguageModelingTask(TextTask):
    """Language modelling. Examples are the targets of a store; sources are empty, so they have only EOS."""

    Config = LanguageModelingConfig
    # Defaults of other keys of s2s-train.
    DEFAULTS: ClassVar[dict[str, str]] = {
        "model": "transformer_lm_small",
        "criterion": "likelihood",
        "train.samples": "0",
    }
    writes = False

    @classmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "LanguageModelingTask":
        """Make the task of a store, whatever its sources are."""
        task = cls(store.tokenizers()["target"], order, config)
        task.tag_values = tags.of_store(store)
        return task

    @classmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "LanguageModelingTask":
        """Load the task from the folder of a checkpoint."""
        task = cls(load_tokenizer(folder, "target"), order, config)
        task.tags = task.tag_values = tags.load(folder)
        return task

    def dataset(self, split: Split) -> "LineDataset":
        return LineDataset(split, self)

    @property
    def spec(self) -> Spec:
        """As TextTask.spec."""
        target = self.target_tokenizer
        return Spec((), len(target.vocabulary), tags=self.tag_values, target_starts=target.word_starts(),
                    target_symbols=tuple(target.vocabulary.symbols))  # fmt: skip

    def encode(self, items: list) -> list[list[int]]:
        """An empty source for each item."""
        return [[] for _ in items]

    def inputs(self, split: Split, examples: np.ndarray) -> list[list[int]]:
        """As `encode`."""
        return self.encode(examples)

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """An empty name for each example."""
        return ["" for _ in examples]

    def source_symbols(self, source: list[int], size: int) -> list[str]:
        """The symbol of EOS: sources are empty."""
        return [self.target_tokenizer.vocabulary.symbols[EOS]]

    def padded_sources(self, sources: list) -> tuple[Source, ...]:
        """Empty sources as the model's input: EOS only, [B, 1]."""
        values = torch.full((len(sources), 1), EOS)
        return (Source(values, torch.ones(len(sources), dtype=torch.int64)),)

    def check(self, config: DataConfig, dataset: "LineDataset") -> None:
        """Check the training data and its options before training. Raises UserError."""
        self.check_transforms(config)
        if self.target_tokenizer.sampling and TEXT not in dataset.split:
            raise UserError(
                "tokenizer.sampling requires the raw text of the train split; make the store with keep_text=true"
            )


class LineDataset(PairDataset):
    """The targets of a split with empty sources."""

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Source lengths (1, for EOS) and target lengths (EOS included) of the examples first ... last - 1, int32."""
        target = self.split.lengths(TOKENS, first, last)
        return np.ones_like(target), target + 1

    @property
    def longest(self) -> int:
        """As in TextDataset."""
        return self.split.longest(TOKENS) + 1

    def _sources(self, examples: np.ndarray, draw: Draw | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Empty sources: no ids, and lengths of 0."""
        return [(np.zeros(0, np.int64), np.zeros(len(examples), np.int64))]
