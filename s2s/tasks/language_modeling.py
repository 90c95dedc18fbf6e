"""Language modelling: a model of the targets of a store, of text or of speech, for `decode.language_model`."""

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
from s2s.tasks.text import TEXT, TOKENS, TextTask, stages
from s2s.tasks.translation import PairDataset
from s2s.text.tokenizer import load_tokenizer
from s2s.text.vocabulary import EOS


@dataclasses.dataclass
class LanguageModelingConfig:
    """Options of the task."""

    type: str = option("language_modeling", "component")


class LanguageModelingTask(TextTask):
    """What is to be learned are lines of a store's target side. A source is empty: it has no more than its EOS."""

    Config = LanguageModelingConfig
    # In s2s-train, defaults of other keys.
    DEFAULTS: ClassVar[dict[str, str]] = {
        "model": "transformer_lm_small",
        "criterion": "likelihood",
        "train.samples": "0",
    }
    writes = False

    @classmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "LanguageModelingTask":
        """The task of a store, whatever its source side is."""
        task = cls(store.tokenizers()["target"], order, config)
        task.tag_values = tags.of_store(store)
        return task

    @classmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "LanguageModelingTask":
        """The task saved in a checkpoint's folder."""
        task = cls(load_tokenizer(folder, "target"), order, config)
        task.tags = task.tag_values = tags.load(folder)
        return task

    def dataset(self, split: Split) -> "LineDataset":
        return LineDataset(split, self)

    @property
    def spec(self) -> Spec:
        """As TextTask.spec."""
        return Spec((), len(self.target_tokenizer.vocabulary), tags=self.tag_values)

    def encode(self, items: list) -> list[list[int]]:
        """As many empty sources."""
        return [[] for _ in items]

    def inputs(self, split: Split, examples: np.ndarray) -> list[list[int]]:
        """As `encode`."""
        return self.encode(examples)

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """Empty."""
        return ["" for _ in examples]

    def source_symbols(self, source: list[int], size: int) -> list[str]:
        """Of an empty source."""
        return [self.target_tokenizer.vocabulary.symbols[EOS]]

    def padded_sources(self, sources: list) -> tuple[Source, ...]:
        """As many empty sources as a model's input."""
        values = torch.full((len(sources), 1), EOS)
        return (Source(values, torch.ones(len(sources), dtype=torch.int64)),)

    def check(self, config: DataConfig, dataset: "LineDataset") -> None:
        """What can be known of training data and its options before training. Raises UserError."""
        self.check_transforms(config, ("target", "shown"))
        for key in ("character_noise", "word_dropout"):
            if any(getattr(stage, key) for stage in stages(config)):
                raise UserError(f"data.{key} requires a source, and a language model has none")
        for key in ("waveform", "spec_augment"):
            if getattr(config, key).active:
                raise UserError(f"data.{key} requires recordings, and a language model reads text")
        if self.target_tokenizer.sampling and TEXT not in dataset.split:
            raise UserError(
                "tokenizer.sampling needs the raw text of the train split; make the store with keep_text=true"
            )


class LineDataset(PairDataset):
    """The targets of a split, each with an empty source."""

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Source lengths, 1 each, and target lengths of the examples first ... last - 1, EOS included, int32."""
        target = self.split.lengths(TOKENS, first, last)
        return np.ones_like(target), target + 1

    @property
    def longest(self) -> int:
        """As TextDataset.longest."""
        return self.split.longest(TOKENS) + 1

    def _sources(self, examples: np.ndarray, draw: Draw | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """Nothing."""
        return [(np.zeros(0, np.int64), np.zeros(len(examples), np.int64))]
