"""Text to text: one source and one target, with a vocabulary for each or one for both."""

import dataclasses
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from s2s.config.schema import LARGEST_SEED, option
from s2s.data.batch import Batch, Counts, Source
from s2s.data.iterator import DataConfig, Draw
from s2s.data.spec import Spec, TokenSource
from s2s.data.split import Split
from s2s.data.store import Store, Stores
from s2s.data.transforms import masked, seeds
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.symbols import TagSymbolsConfig, symbols_of, with_symbol
from s2s.tasks.tags import Tagged
from s2s.tasks.text import TEXT, TOKENS, TextDataset, TextTask, packing_of, padded
from s2s.text.positions import PositionTokenizer, outside
from s2s.text.tokenizer import Tokenizer, load_tokenizer
from s2s.text.vocabulary import EOS, SPECIALS, Vocabulary

SOURCE_TOKENS, SOURCE_TEXT = "source.tokens", "source.text"
CHECKED = 10_000  # examples that are checked at a time
APART = 0x9E3779B97F4A7C15  # between the seeds of the sources of an example


@dataclasses.dataclass
class TranslationConfig(TagSymbolsConfig):
    """Options of the task."""

    type: str = option("translation", "component")
    source_end: bool = option(
        True, "a source ends with </s>; false: only an empty one does, as in models of OpenNMT that were imported"
    )


class TranslationTask(TextTask):
    """Text to text: owns both tokenizers.

    Args:
        source_tokenizer: Tokenizer of the sources.
        target_tokenizer: Tokenizer of the targets; the same object if both sides share it.
        order, config: As in TextTask.
    """

    Config = TranslationConfig

    def __init__(
        self, source_tokenizer: Tokenizer, target_tokenizer: Tokenizer, order: Any = "none", config: Any = None
    ):
        super().__init__(target_tokenizer, order, config)
        self.source_tokenizer = source_tokenizer
        self.source_end = getattr(self.config, "source_end", True)

    @classmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "TranslationTask":
        """Make the task of a store. Raises UserError if its sources are not text."""
        tokenizers = store.tokenizers()
        texts_alone = store.task == "denoising" and cls.Config().type != "denoising" and not cls.mixes
        if "source" not in tokenizers or texts_alone:
            raise UserError(f"the store holds no text to translate: it is made for task={store.task}; s2s-train "
                            f"task={store.task} trains on it")  # fmt: skip
        task = cls(tokenizers["source"], tokenizers["target"], order, config)
        task.tag_values = tags.of_store(store)
        return task

    @classmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "TranslationTask":
        """Load the task from the folder of a checkpoint."""
        source, target = load_tokenizer(folder, "source"), load_tokenizer(folder, "target")
        same = source.facts() == target.facts() and source.vocabulary.digest == target.vocabulary.digest
        same = same and getattr(source, "model", None) == getattr(target, "model", None)
        task = cls(source, source if same else target, order, config)
        task.tags = task.tag_values = tags.load(folder)
        return task

    def save(self, folder: Path) -> None:
        """Write the tokenizers into the folder of a checkpoint."""
        super().save(folder)
        self.source_tokenizer.save(folder, "source")

    @property
    def source_tokenizers(self) -> dict[str, Tokenizer]:
        """Of each source, by what its columns begin with."""
        return {"source": self.source_tokenizer}

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        sources = {name: tokenizer.vocabulary for name, tokenizer in self.source_tokenizers.items()}
        return {**sources, "target": self.target_tokenizer.vocabulary}

    @property
    def shared_vocabulary(self) -> bool:
        return self.source_tokenizer.vocabulary.digest == self.target_tokenizer.vocabulary.digest

    def describe(self) -> str:
        """As in TextTask."""
        source, target = (len(vocabulary) for vocabulary in self.vocabularies.values())
        if self.shared_vocabulary:
            return f"vocabulary: shared {target:,} symbols"
        return f"vocabulary: {source:,} source and {target:,} target symbols"

    def dataset(self, split: Split) -> "PairDataset":
        return PairDataset(split, self)

    @property
    def spec(self) -> Spec:
        """As in TextTask."""
        source, target = self.vocabularies.values()
        same = tuple(target.index(symbol) for symbol in source.symbols[len(SPECIALS) :])
        return Spec((TokenSource(len(source), self.source_tokenizer.word_starts()),), len(target),
                    self.shared_vocabulary, self.tag_values, same=(*range(len(SPECIALS)), *same),
                    positions=isinstance(self.target_tokenizer, PositionTokenizer),
                    target_starts=self.target_tokenizer.word_starts(),
                    target_symbols=tuple(target.symbols))  # fmt: skip

    def encode(self, items: list[str]) -> list[list[int]]:
        """Source ids of raw lines, without EOS."""
        return [ids.tolist() for ids in self.source_tokenizer.encode_lines(items)]

    def inputs(self, split: Split, examples: np.ndarray) -> list[list[int]]:
        """Source ids of examples, without EOS."""
        flat, lengths = split.gather(SOURCE_TOKENS, examples)
        return [row.tolist() for row in np.split(flat, np.cumsum(lengths[:-1]))]

    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """The raw lines."""
        return split.lines(SOURCE_TEXT, examples)

    def source_symbols(self, source: list[int], size: int) -> list[str]:
        """The symbols of a source, those of tags and EOS among them."""
        return [self.source_tokenizer.vocabulary.symbols[i] for i in
                ([*source, EOS] if self.source_end or not source else source)]  # fmt: skip

    def model(self, config) -> torch.nn.Module:
        """As in TextTask."""
        if self.source_tags and isinstance(self.target_tokenizer, PositionTokenizer):
            raise UserError("task.source_tags: does not go with target_tokenizer=positions, which counts the tokens of "
                            "the source alone")  # fmt: skip
        model = super().model(config)
        self.source_symbols_of_tags()  # raises if a symbol is missing
        return model

    def source_symbols_of_tags(self) -> dict[str, np.ndarray]:
        """The ids of the symbols before a source, for each of `source_tags` by the number of its value."""
        return {name: symbols_of(self.source_tokenizer.vocabulary, self.tags[name], f"task.source_tags={name}")
                for name in self.source_tags}  # fmt: skip

    def tagged(self, sources: list, tags_of_each) -> list:
        """As in TextTask, with the symbols of `source_tags` before each source that is not empty."""
        sources = super().tagged(sources, tags_of_each)
        if not self.source_tags:
            return sources
        tables = self.source_symbols_of_tags()
        return [Tagged([*(int(table[source.tags[name]]) for name, table in tables.items()), *source], source.tags)
                if isinstance(source, Tagged) and len(source) else source for source in sources]  # fmt: skip

    def padded_sources(self, sources: list[list[int]]) -> tuple[Source, ...]:
        """Batch source ids (without EOS) as the model's input, int64 [B, S] with EOS."""
        return (closed(sources, self.source_end),)

    def check(self, config: DataConfig, dataset: "PairDataset") -> None:
        """Check the training data and its options before training. Raises UserError."""
        self.check_transforms(config)
        samples = any(tokenizer.sampling for tokenizer in (*self.source_tokenizers.values(), self.target_tokenizer))
        noise = any(stage.character_noise for stage in config.with_stages)
        texts = {TEXT, *(f"{name}.text" for name in self.source_tokenizers)}
        if (samples or noise) and not texts <= set(dataset.split.columns):
            key = "tokenizer.sampling" if samples else "data.character_noise"
            raise UserError(f"{key} requires the raw text of the train split; make the store with keep_text=true")
        if isinstance(self.target_tokenizer, PositionTokenizer):
            _check_positions(dataset.split)


def _check_positions(split: Split) -> None:
    """Raises UserError for a target that holds what is no position of its source."""
    for first in range(0, len(split), CHECKED):
        examples = np.arange(first, min(first + CHECKED, len(split)))
        ids, lengths = split.gather(TOKENS, examples)
        sources = split.lengths(SOURCE_TOKENS, first, first + len(examples))
        for number in np.flatnonzero(outside(ids, lengths, sources))[:1]:
            raise UserError(
                f"split '{split.name}', example {first + number}: the target holds what is no position of "
                f"its source of {sources[number]} tokens; tokenizer positions writes them as 1, 2 ..."
            )


def closed(sentences: list[list[int]], end: bool = True) -> Source:
    """Ids of several sentences (no EOS) as a model's input; end: as in `ended`."""
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    flat = np.fromiter(chain.from_iterable(sentences), np.int64, lengths.sum())
    return _rows(*ended(flat, lengths, end), None)


def ended(ids: np.ndarray, lengths: np.ndarray, end: bool) -> tuple[np.ndarray, np.ndarray]:
    """Add EOS after each row, or, without `end`, in empty rows only; ids, lengths and result: as in `with_symbol`."""
    if end:
        return with_symbol(EOS, ids, lengths, after=True)
    return np.insert(ids, np.cumsum(lengths)[lengths == 0], EOS), np.maximum(lengths, 1)


class PairDataset(TextDataset):
    """The examples of a split, with source and target. Lengths count EOS, of sources too where they end with it."""

    source_seconds = None

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target lengths of the examples first ... last - 1, int32; several sources count together."""
        before, end = len(self.task.source_tags), self.task.source_end
        sources = [np.maximum(self.split.lengths(f"{name}.tokens", first, last) + end, 1)
                   for name in self.task.source_tokenizers]  # fmt: skip
        return sum(sources[1:], sources[0]) + before, self.split.lengths(TOKENS, first, last) + 1 + bool(
            self.task.target_tag
        )

    @property
    def longest(self) -> int:
        """As in TextDataset, over all sides."""
        before = len(self.task.source_tags)
        sources = (self.split.longest(f"{name}.tokens") + 1 + before for name in self.task.source_tokenizers)
        return max(super().longest, *sources)

    def collate(self, examples: np.ndarray, rows: np.ndarray | None = None, draw: Draw | None = None) -> Batch:
        """Make a batch.

        Args:
            examples: Numbers of the examples.
            rows: How many examples each row has; None: one.
            draw: Seed and options of augmentation; None: the examples are not augmented.
        """
        examples = np.asarray(examples, np.int64)
        ids, (decoder_input, target, target_lengths) = self._sides(examples, draw)
        sources = [_rows(*ended(*self._with_tags(*source, examples), self.task.source_end), rows) for source in ids]
        written = _rows(target, target_lengths, rows)
        real, target_real = sum(int(source.lengths.sum()) for source in sources), int(written.lengths.sum())
        places = sum(source.values.numel() for source in sources)
        return Batch(
            ids=torch.from_numpy(examples),
            sources=tuple(sources),
            decoder_input=padded(decoder_input, written.lengths.numpy()),
            target=written.values,
            target_lengths=written.lengths,
            counts=Counts(len(examples), real, target_real, places - real, written.values.numel() - target_real),
            tags=self._tags(examples),
            target_packing=written.packing,
            columns=self._columns(examples),
        )

    def _sides(self, examples: np.ndarray, draw: Draw | None):
        """`_sources` and `_targets` of examples."""
        return self._sources(examples, draw), self._targets(examples, draw)

    def _sources(self, examples: np.ndarray, draw: Draw | None) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each source, the concatenated ids of examples, and their lengths."""
        tokenizers = self.task.source_tokenizers.items()
        if draw is None:
            return [self.split.gather(f"{name}.tokens", examples) for name, _ in tokenizers]
        return [
            self._source(name, tokenizer, examples, draw._replace(seed=(draw.seed + number * APART) & LARGEST_SEED))
            for number, (name, tokenizer) in enumerate(tokenizers)
        ]

    def _with_tags(self, ids: np.ndarray, lengths: np.ndarray, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sources with the symbols of the task's `source_tags` before them; returns concatenated ids and lengths."""
        if self.task.source_tags:
            tables = self.task.source_symbols_of_tags()
            for name in reversed(self.task.source_tags):
                ids, lengths = with_symbol(tables[name][self._numbers_of(name, examples)], ids, lengths, after=False)
        return ids, lengths

    def _source(
        self, name: str, tokenizer: Tokenizer, examples: np.ndarray, draw: Draw
    ) -> tuple[np.ndarray, np.ndarray]:
        noise, dropout = draw.config.character_noise, draw.config.word_dropout
        ids, lengths = self._tokens(name, tokenizer, examples, draw, noise)
        if dropout:
            ids = masked(ids, lengths, seeds(draw.seed, draw.epoch, examples, "word_dropout"), dropout)
        return self._transformed("source", ids, lengths, examples, draw)


def _rows(ids: np.ndarray, lengths: np.ndarray, rows: np.ndarray | None) -> Source:
    """Examples of these lengths, whose ids lie one after the other, with `rows` of them to each row; None: one."""
    if rows is None:
        return Source(padded(ids, lengths), torch.from_numpy(lengths))
    totals = np.add.reduceat(lengths, np.cumsum(rows) - rows)
    return Source(padded(ids, totals), torch.from_numpy(totals), packing_of(lengths, rows))
