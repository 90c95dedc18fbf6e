"""Text to text: one source, one target, a vocabulary for each or one for both."""

import dataclasses
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2s.config.schema import option
from s2s.data.batch import Batch, Counts, Source
from s2s.data.iterator import DataConfig, Draw
from s2s.data.spec import Spec, TokenSource
from s2s.data.split import Split
from s2s.data.store import Store, Stores
from s2s.data.transforms import masked, seeds
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.text import TEXT, TOKENS, TextDataset, TextTask, packing_of, padded, stages, with_symbol
from s2s.text.tokenizer import Tokenizer, load_tokenizer
from s2s.text.vocabulary import EOS, Vocabulary

SOURCE_TOKENS, SOURCE_TEXT = "source.tokens", "source.text"


@dataclasses.dataclass
class TranslationConfig:
    """Options of the task."""

    type: str = option("translation", "component")


class TranslationTask(TextTask):
    """Text to text: owns the tokenizers, says what an example is, builds what the commands need.

    Args:
        source_tokenizer: Of the source side.
        target_tokenizer: Of the target side; the same object where both sides share it.
        order, config: As of TextTask.
    """

    Config = TranslationConfig

    def __init__(
        self, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer, order: Any = "none", config: Any = None
    ):
        super().__init__(target_tokenizer, order, config)
        self.source_tokenizer = source_tokenizer

    @classmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "TranslationTask":
        """The task of a store."""
        tokenizers = store.tokenizers()
        if "source" not in tokenizers:
            raise UserError(f"the store holds no text to translate: task={store.task}")
        task = cls(tokenizers["source"], tokenizers["target"], order, config)
        task.tag_values = tags.of_store(store)
        return task

    @classmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "TranslationTask":
        """The task saved in a checkpoint's folder."""
        source, target = load_tokenizer(folder, "source"), load_tokenizer(folder, "target")
        same = source.vocabulary.digest == target.vocabulary.digest
        task = cls(source, source if same else target, order, config)
        task.tags = task.tag_values = tags.load(folder)
        return task

    def save(self, folder: Path) -> None:
        """Write the tokenizers into a checkpoint's folder."""
        super().save(folder)
        self.source_tokenizer.save(folder, "source")

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        return {"source": self.source_tokenizer.vocabulary, "target": self.target_tokenizer.vocabulary}

    @property
    def shared_vocabulary(self) -> bool:
        return self.source_tokenizer.vocabulary.digest == self.target_tokenizer.vocabulary.digest

    def describe(self) -> str:
        """As TextTask.describe."""
        source, target = (len(vocabulary) for vocabulary in self.vocabularies.values())
        if self.shared_vocabulary:
            return f"vocabulary: shared {target:,} symbols"
        return f"vocabulary: {source:,} source and {target:,} target symbols"

    def dataset(self, split: Split) -> "PairDataset":
        return PairDataset(split, self)

    @property
    def spec(self) -> Spec:
        """As TextTask.spec."""
        source, target = (len(vocabulary) for vocabulary in self.vocabularies.values())
        return Spec((TokenSource(source),), target, self.shared_vocabulary, self.tag_values)

    def encode(self, items: list[str]) -> list[list[int]]:
        """Source ids of raw lines, no EOS."""
        return [ids.tolist() for ids in self.source_tokenizer.encode_lines(items)]

    def inputs(self, split: Split, examples: np.ndarray) -> list[list[int]]:
        """Source ids of examples, no EOS."""
        flat, lengths = split.gather(SOURCE_TOKENS, examples)
        return [row.tolist() for row in np.split(flat, np.cumsum(lengths[:-1]))]

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """The raw lines."""
        return split.lines(SOURCE_TEXT, examples)

    def source_symbols(self, source: list[int], size: int) -> list[str]:
        """Symbols, EOS among them."""
        return [self.source_tokenizer.vocabulary.symbols[i] for i in [*source, EOS]]

    def padded_sources(self, sources: list[list[int]]) -> tuple[Source, ...]:
        """Source ids of several sentences (no EOS) as the model's input."""
        lengths = np.fromiter(map(len, sources), np.int64, len(sources))
        flat = np.fromiter(chain.from_iterable(sources), np.int64, lengths.sum())
        flat, lengths = with_symbol(EOS, flat, lengths, after=True)
        return (Source(padded(flat, lengths), torch.from_numpy(lengths)),)

    def check(self, config: DataConfig, dataset: "PairDataset") -> None:
        """What can be known of training data and its options before training. Raises UserError."""
        self.check_transforms(config)
        samples = self.source_tokenizer.sampling or self.target_tokenizer.sampling
        noise = any(stage.character_noise for stage in stages(config))
        if (samples or noise) and not {SOURCE_TEXT, TEXT} <= set(dataset.split.columns):
            wish = "tokenizer.sampling" if samples else "data.character_noise"
            raise UserError(f"{wish} needs the raw text of the train split; make the store with keep_text=true")
        for key in ("waveform", "spec_augment"):
            if getattr(config, key).active:
                raise UserError(f"data.{key} requires recordings, and the source is text")


class PairDataset(TextDataset):
    """The examples of a split. Lengths count the EOS that the model sees on both sides."""

    source_seconds = None

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target lengths of the examples first ... last - 1, int32."""
        return self.split.lengths(SOURCE_TOKENS, first, last) + 1, self.split.lengths(TOKENS, first, last) + 1

    @property
    def longest(self) -> int:
        """As TextDataset.longest, of both sides."""
        return max(super().longest, self.split.longest(SOURCE_TOKENS) + 1)

    def collate(self, examples: np.ndarray, rows: np.ndarray | None = None, draw: Draw | None = None) -> Batch:
        """A batch.

        Args:
            examples: Their numbers.
            rows: How many of them each row holds; None: one.
            draw: Of the transforms; without it the examples are as they are.
        """
        examples = np.asarray(examples, np.int64)
        source, source_lengths = with_symbol(EOS, *self._source(examples, draw), after=True)
        decoder_input, target, target_lengths = self._targets(examples, draw)
        source_rows, target_rows, packing = source_lengths, target_lengths, (None, None)
        if rows is not None:
            firsts = np.cumsum(rows) - rows
            source_rows, target_rows = (np.add.reduceat(side, firsts) for side in (source_lengths, target_lengths))
            packing = packing_of(source_lengths, rows), packing_of(target_lengths, rows)
        ids, targets = padded(source, source_rows), padded(target, target_rows)
        real = int(source_rows.sum()), int(target_rows.sum())
        return Batch(
            ids=torch.from_numpy(examples),
            sources=(Source(ids, torch.from_numpy(source_rows), packing[0]),),
            decoder_input=padded(decoder_input, target_rows),
            target=targets,
            target_lengths=torch.from_numpy(target_rows),
            counts=Counts(len(examples), *real, ids.numel() - real[0], targets.numel() - real[1]),
            tags=self._tags(examples),
            target_packing=packing[1],
            columns=self._columns(examples),
        )

    def _source(self, examples: np.ndarray, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        """Source ids of examples, one after the other, and the number of each."""
        if draw is None:
            return self.split.gather(SOURCE_TOKENS, examples)
        noise, dropout = draw.config.character_noise, draw.config.word_dropout
        ids, lengths = self._tokens("source", self.task.source_tokenizer, examples, draw, noise)
        if dropout:
            ids = masked(ids, lengths, seeds(draw.seed, draw.epoch, examples, "word_dropout"), dropout)
        return self._transformed("source", ids, lengths, examples, draw)
