"""The base of all tasks with text targets: the target tokenizer, the order of target tokens, and batches of targets."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from s2s import registry
from s2s.config import schema
from s2s.data.batch import Batch, Inputs, Packing, Source
from s2s.data.iterator import DataConfig, Draw
from s2s.data.spec import NAMES, FeatureSource, Spec, TokenSource, sources_in_words
from s2s.data.split import CorpusRange, Split
from s2s.data.store import Store, Stores
from s2s.data.target_transforms import target_transform
from s2s.data.transforms import Transform, masked, noisy, seeds
from s2s.errors import UserError
from s2s.models.adapting import adapt
from s2s.tasks import tags
from s2s.tasks.symbols import FirstTagConfig, TagSymbolsConfig, known, suppressed_of, symbols_of, with_symbol
from s2s.tasks.tags import Tagged, Tags, plain
from s2s.text.tokenizer import Tokenizer
from s2s.text.vocabulary import BOS, EOS, MASK, PAD, UNK, Vocabulary

TOKENS, TEXT = "target.tokens", "target.text"  # columns of a store
READS = {"lines": TokenSource, "recordings": FeatureSource}  # what an option is for -> the kind of sources


class TextTask(ABC):
    """A task defines examples, and builds the model, the datasets and the inputs of the commands.

    A source can be any object with a length: `inputs` and `encode` make it, and `collate_sources` takes it. Its `len`
    is the source length in the options of decoding.

    Args:
        target_tokenizer: Tokenizer of the targets.
        order: The options that choose a `target_transform`, the order in which the model writes a target.
        config: The task's own options, as its Config or as a dict; None: the defaults.

    Attributes:
        tag_values: Name of each tag in the training data -> its values.
        tags: The same for the tags that the model reads; empty before the model is made.
    """

    Config: ClassVar[Any]  # the dataclass of its options
    DEFAULTS: ClassVar[dict[str, str]] = {}  # of other keys of s2s-train
    reads = "lines"  # the items that `encode` takes: `lines` or `recordings`
    buffer = 4096  # default of decode.buffer, in sources
    max_source = 4096  # default of decode.max_source, in tokens or encoder positions
    shared_vocabulary = False
    columns: tuple[str, ...] = ()  # further columns of the store, to be in `Batch.columns`
    reserved: ClassVar[tuple[str, ...]] = ()  # symbols that its vocabularies must reserve
    mixes = False  # whether its stores may be made for different tasks
    decodes_as: type | None = None  # another task whose models decode as its own do
    writes = True  # whether its models generate hypotheses
    source_end = True  # whether its sources of text end with EOS
    frame_seconds: float | None = None  # seconds from one frame of a recording to the next; None: sources are text

    def __init__(self, target_tokenizer: Tokenizer, order: Any = "none", config: Any = None):
        self.target_tokenizer = target_tokenizer
        self.target_transform = target_transform(order, target_tokenizer)
        self.config = schema.load(self.Config, config or {}, "task") if isinstance(config, dict | None) else config
        for name in self.reserved:
            if name not in target_tokenizer.vocabulary.reserved:
                raise UserError(f"task={self.Config.type}: requires the reserved symbol {name}, which is not in the "
                                "vocabulary; make the store for this task, or with tokenizer.reserved")  # fmt: skip
        self.tag_values: dict[str, list[str]] = {}
        self.tags: dict[str, list[str]] = {}
        self.first_tag = self.config.first_tag if isinstance(self.config, FirstTagConfig) else None
        self.target_tag = getattr(self.config, "target_tag", None)
        prefix = getattr(self.config, "target_prefix", [])
        self.target_prefix = symbols_of(target_tokenizer.vocabulary, prefix, "task.target_prefix").tolist()
        self.beginning = bool(self.target_tag) + len(self.target_prefix)  # tokens that every target begins with
        self.suppressed = suppressed_of(self.config, target_tokenizer.vocabulary)
        if self.beginning and not self.target_transform.is_none:
            raise UserError("task.target_tag, task.target_prefix: do not go with "
                            f"data.target_transform={self.target_transform.kind}")  # fmt: skip
        self.source_tags = tuple(self.config.source_tags) if isinstance(self.config, TagSymbolsConfig) else ()

    @classmethod
    @abstractmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "TextTask":
        """Make the task of a store; `order` and `config` as in the class.

        Raises:
            UserError: the store is for another task.
        """

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "TextTask":
        """Load the task from the folder of a checkpoint; `order` and `config` as in the class."""

    def save(self, folder: Path) -> None:
        """Write the files that `load` reads into the folder of a checkpoint."""
        self.target_tokenizer.save(folder, "target")
        tags.save(self.tags, folder)

    @abstractmethod
    def dataset(self, split: Split) -> "TextDataset":
        """The examples of a split."""

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """The description of this task for models: kinds of sources, vocabulary sizes and tags."""

    def model(self, config) -> torch.nn.Module:
        """Make a model with new weights for this task.

        Args:
            config: Config of a model component.

        Raises:
            UserError: the model reads a tag that the data do not have.
        """
        model = registry.find("model", config.type)(config, self.spec)
        adapt(model, getattr(config, "adapter", None))
        for key, tag in {"first_tag": self.first_tag, "target_tag": self.target_tag}.items():
            if tag and not model.has_decoder:
                raise UserError(f"task.{key}={tag}: requires a decoder, and the model has none")
        if (self.target_prefix or any(self.suppressed)) and not model.has_decoder:
            raise UserError("task.target_prefix, task.suppressed: require a decoder, and the model has none")
        own = {"task.source_tags": self.source_tags, "task.first_tag": (self.first_tag,) if self.first_tag else (),
               "task.target_tag": (self.target_tag,) if self.target_tag else ()}  # fmt: skip
        read = {f"model={config.type}": model.tags, **own}
        self.tags = {}
        for key, names in read.items():
            self.tags |= known(self.tag_values, names, key)
        if self.first_tag:
            self.first_symbols()  # raises if a symbol is missing
        if self.target_tag:
            self.target_symbols()
        return model

    def target_symbols(self) -> np.ndarray:
        """The ids of what a target may begin with, by the number of `target_tag`'s value, int64 [values]."""
        key = f"task.target_tag={self.target_tag}"
        return symbols_of(self.target_tokenizer.vocabulary, self.tags[self.target_tag or ""], key)

    def beginnings(self, sources: list) -> list[list[int]]:
        """The ids that the target of each source begins with, for its `target_tag` and `target_prefix`; none for a
        source that failed."""
        symbols = self.target_symbols() if self.target_tag else None
        return [[] if isinstance(source, Exception) else
                ([] if symbols is None else [int(symbols[source.tags[self.target_tag]])]) + self.target_prefix
                for source in sources]  # fmt: skip

    def first_symbols(self) -> np.ndarray:
        """The ids of what the decoder may read first, by the number of `first_tag`'s value, int64 [values]."""
        key = f"task.first_tag={self.first_tag}"
        return symbols_of(self.target_tokenizer.vocabulary, self.tags[self.first_tag or ""], key)

    def first_tokens(self, sources: list) -> list[int]:
        """What the decoder reads first for each source: BOS, or the symbol of its `first_tag`."""
        if self.first_tag is None:
            return [BOS] * len(sources)
        return self.first_symbols()[[source.tags[self.first_tag] for source in sources]].tolist()

    @abstractmethod
    def encode(self, items: list) -> list:
        """Make sources from raw items, of the kind that `reads` says."""

    def encode_each(self, items: list) -> list:
        """As `encode`, but an item that cannot be read becomes a UserError, and the others are not affected."""
        return self.encode(items)

    @abstractmethod
    def inputs(self, split: Split, examples: np.ndarray) -> list:
        """Make sources from examples of a split."""

    @abstractmethod
    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """Readable texts for the sources of examples."""

    def source_lengths(self, source) -> list[int]:
        """Lengths of the sources of an example, in tokens without EOS or in frames."""
        return [len(source)]

    @abstractmethod
    def source_symbols(self, source, size: int) -> list[str]:
        """Readable texts for a source: its tokens, or the positions of a recording.

        Args:
            source: The source.
            size: Number of its positions in the model's memory.
        """

    @abstractmethod
    def padded_sources(self, sources: list) -> tuple[Source, ...]:
        """Pad and batch sources (without tags) as the model's input."""

    def check_tags(self, given: Tags) -> None:
        """Check that tags are exactly those that the model reads, with known values. Raises UserError."""
        tags.check_read(self.tags, given)
        tags.numbers(self.tags, given)

    def tagged(self, sources: list, tags_of_each: Tags | Sequence[Tags]) -> list:
        """Add the tags that the model reads to sources.

        Args:
            sources: As `encode` or `inputs` makes them; errors among them are returned unchanged.
            tags_of_each: Tags of all sources, or of each; those that the model does not read are ignored.

        Raises:
            UserError: a tag that the model reads is missing or has an unknown value.
        """
        if not self.tags:
            return sources
        if isinstance(tags_of_each, Mapping):
            numbers: Iterable = repeat(tags.numbers(self.tags, tags_of_each), len(sources))
        else:
            numbers = (tags.numbers(self.tags, own_tags) for own_tags in tags_of_each)
        pairs = zip(sources, numbers, strict=True)
        return [source if isinstance(source, Exception) else Tagged(source, own) for source, own in pairs]

    def collate_sources(self, sources: list, device: torch.device | str = "cpu") -> Inputs:
        """Batch sources as the model's input; they are `Tagged` if the model reads tags."""
        padded = tuple(source.to(device) for source in self.padded_sources(list(map(plain, sources))))
        numbers = {name: torch.tensor([source.tags[name] for source in sources], device=device) for name in self.tags}
        return Inputs(padded, numbers)

    def unbatched(self, batch: Batch) -> list:
        """The sources of a batch whose rows are not packed, as `collate_sources` takes them."""
        end = self.frame_seconds is None  # a text has EOS
        sides = []
        for source in batch.sources:
            pairs = zip(source.values.numpy(), source.lengths.tolist(), strict=True)
            sides.append([row[: length - end] for row, length in pairs])
        rows = [self.source_of([row.tolist() if end else row for row in parts]) for parts in zip(*sides, strict=True)]
        return rows if not self.tags else [Tagged(row, {name: int(numbers[i]) for name, numbers in batch.tags.items()})
                for i, row in enumerate(rows)]  # fmt: skip

    def source_of(self, parts: list) -> Any:
        """A source, from its values, as a model reads them; a task with several sources joins them."""
        (values,) = parts
        return values

    @abstractmethod
    def check(self, config: DataConfig, dataset: "TextDataset") -> None:
        """Check the training data and its options before training. Raises UserError."""

    def check_transforms(self, config: DataConfig) -> None:
        """Check that what changes examples is for those of the task, which its spec describes. Raises UserError."""
        kinds, has = {type(source) for source in self.spec.sources}, sources_in_words(self.spec)
        for field in dataclasses.fields(config):
            kind = READS.get(field.metadata.get("reads", ""))
            values = [getattr(stage, field.name, None) for stage in config.with_stages]
            if kind and kind not in kinds and any(getattr(value, "active", value) for value in values):
                needed, _ = NAMES[(kind,)]
                raise UserError(f"data.{field.name} requires {needed} as source; task={self.config.type} has {has}")
        streams = ("source",) * bool(kinds) + ("target", "shown")
        for name, options in config.transforms.items():
            if (stream := registry.find("transform", options.type).stream) not in streams:
                raise UserError(f"data.transforms: {name} changes the {stream}, and task={self.config.type} has none; "
                                f"it has {', '.join(streams)}")  # fmt: skip

    @property
    def source_tokenizers(self) -> dict[str, Tokenizer]:
        """The tokenizer of each source text, by what its columns begin with; empty: sources are no texts."""
        return {}

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """Side (`source`, `target`) -> vocabulary, for each side that has one, the source first."""
        return {"target": self.target_tokenizer.vocabulary}

    def describe(self) -> str:
        """One line about sources and targets, such as sizes of vocabularies."""
        return "vocabulary: " + " and ".join(f"{len(symbols):,} {side}" for side, symbols in self.vocabularies.items())

    def difference(self, other: "TextTask") -> str | None:
        """The first difference because of which models of this task and another cannot work together; or None."""
        if (self.decodes_as or type(self)) is not (other.decodes_as or type(other)):
            return f"another task, {type(other).__name__} against {type(self).__name__}"
        for side, vocabulary in self.vocabularies.items():
            other_vocabulary = other.vocabularies[side]
            if vocabulary.digest != other_vocabulary.digest:
                return f"another {side} vocabulary, of {len(other_vocabulary)} symbols against {len(vocabulary)}"
        if self.tags != other.tags:
            read = (", ".join(f"{name} ({'|'.join(task.tags[name])})" for name in task.tags) for task in (other, self))
            return "other tags, {} against {}".format(*(text or "none" for text in read))
        for key in ("source_tags", "first_tag", "target_tag", "target_prefix"):
            if getattr(self, key) != getattr(other, key):
                return f"another task.{key}, {getattr(other, key) or 'none'} against {getattr(self, key) or 'none'}"
        theirs, ours = other.target_transform, self.target_transform
        same = theirs.config == ours.config
        return None if same else f"another data.target_transform, {theirs.kind} against {ours.kind}"

    def fits(self, store: Store) -> str | None:
        """The first difference because of which a store does not fit the task; or None."""
        other = self.setup(store, self.target_transform.config, self.config)
        other.tags = self.tags  # which tags are read is a property of the model, not of the store
        return self.difference(other)

    def criterion(self, config):
        """The criterion of a config. Batches have the columns that it reads from now on."""
        criterion = registry.find("criterion", config.type)(config)
        self.columns = tuple(dict.fromkeys([*self.columns, *criterion.columns]))
        return criterion

    def encode_target(self, lines: list[str]) -> list[list[int]]:
        """Target ids of raw lines, in the order in which the model writes them, without BOS and EOS."""
        return [self.target_transform.apply(ids).tolist() for ids in self.target_tokenizer.encode_lines(lines)]

    def encode_prefixes(self, lines: list[str]) -> list[list[int]]:
        """As `encode_target`, for texts with which hypotheses must begin. If the model writes the last word first, a
        line stands for the last words of the hypothesis, its own last word complete."""
        return self.encode_target([line.rstrip() for line in lines] if self._last_word_first else lines)

    def encode_phrases(self, phrases: list[str]) -> list[list[int]]:
        """As `encode_target`, for phrases anywhere in a target.

        Raises:
            UserError: a phrase has several words, and the model writes the last word first, so that words next to each
                other in the text are not next to each other in its output.
        """
        if self._last_word_first and (several := next((text for text in phrases if len(text.split()) > 1), None)):
            raise UserError(f"{several!r}: a phrase of several words does not go with a model that writes the last "
                            "word of a line first (data.target_transform); use single words")  # fmt: skip
        return self.encode_target(phrases)

    @property
    def _last_word_first(self) -> bool:
        return self.target_transform.moves_words

    def text(self, ids: list[int], source) -> str:
        """Detokenize an output.

        Args:
            ids: Target ids, in the order in which the model writes them.
            source: Its source, without tags, as `encode` or `inputs` makes it.
        """
        return self.target_tokenizer.decode(self.target_transform.undo(np.asarray(ids, np.int64)).tolist())


class TextDataset:
    """The targets of the examples of a split. Target lengths count EOS.

    Args:
        split: A split of a store or of several stores.
        task: The task, with tokenizers and the order of targets.
    """

    def __init__(self, split: Split, task: TextTask):
        self.split, self.task = split, task
        self.corpora = split.corpora
        self._firsts = [corpus.first for corpus in self.corpora]
        self._numbers = self._numbers_of_corpora()
        for name in task.columns:
            split.lengths(name, 0, 0)  # raises if the column is missing
        self._made: dict[str, Transform] = {}  # data.transforms by name

    def __len__(self) -> int:
        return len(self.split)

    @property
    def longest(self) -> int:
        """Length of the longest side of any example, EOS included."""
        return self.split.longest(TOKENS) + 1 + self.task.beginning

    def group(self, corpus: CorpusRange) -> str:
        """The name by which a validation reports metrics of a corpus and others like it: its languages."""
        return f"{corpus.source_language}-{corpus.target_language}"

    def references(self) -> list[str]:
        """The texts that a model should write."""
        return self.split.lines(TEXT)

    def _numbers_of_corpora(self) -> dict[str, np.ndarray]:
        """For each tag that the model reads, the number of each corpus's value, int64 [corpora]."""
        rows = []
        for corpus in self.corpora:
            try:
                rows.append(tags.numbers(self.task.tags, tags.of_corpus(corpus)))
            except UserError as error:
                raise UserError(f"split '{self.split.name}', corpus {corpus.name}: {error}") from error
        return {name: np.array([row[name] for row in rows], np.int64) for name in self.task.tags}

    def _tags(self, examples: np.ndarray) -> dict[str, torch.Tensor]:
        """The numbers of the tags of examples that the model reads, int64 [B] each."""
        if not self._numbers:
            return {}
        return {name: torch.from_numpy(self._numbers_of(name, examples)) for name in self._numbers}

    def _numbers_of(self, name: str, examples: np.ndarray) -> np.ndarray:
        """The numbers of the values of a tag of examples, int64 [B]."""
        return self._numbers[name][np.searchsorted(self._firsts, examples, "right") - 1]

    def _targets(self, examples: np.ndarray, draw: Draw | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The concatenated decoder inputs (BOS first) and targets (EOS last) of examples, and their lengths [B]."""
        return self._framed(*self._target(examples, draw), examples, draw)

    def _framed(
        self, target: np.ndarray, lengths: np.ndarray, examples: np.ndarray, draw: Draw | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `_targets`, from the ids of targets without BOS and EOS."""
        for symbol in reversed(self.task.target_prefix):
            target, lengths = with_symbol(symbol, target, lengths, after=False)
        if self.task.target_tag:
            symbols = self.task.target_symbols()[self._numbers_of(self.task.target_tag, examples)]
            target, lengths = with_symbol(symbols, target, lengths, after=False)
        shown = target
        if draw and draw.config.prev_output_mask:
            random = seeds(draw.seed, draw.epoch, examples, "prev_output_mask")
            symbol = self.task.target_tokenizer.vocabulary.reserved.get(MASK, UNK)
            shown = masked(target, lengths, random, draw.config.prev_output_mask, symbol)
        shown, _ = self._transformed("shown", shown, lengths, examples, draw)
        tag, first = self.task.first_tag, BOS
        if tag is not None:
            first = self.task.first_symbols()[self._numbers_of(tag, examples)]
        decoder_input, _ = with_symbol(first, shown, lengths, after=False)
        return decoder_input, *with_symbol(EOS, target, lengths, after=True)

    def _columns(self, examples: np.ndarray) -> dict[str, torch.Tensor]:
        """The values of `Batch.columns` for examples, padded with zeros."""
        columns = {}
        for name in self.task.columns:
            values, lengths = self.split.gather(name, examples)
            values = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
            if self.split.columns[name].kind != "number":
                rows = np.full((len(lengths), lengths.max(), *values.shape[1:]), 0, values.dtype)  # PAD is 0
                rows[np.arange(rows.shape[1]) < lengths[:, None]] = values
                values = rows
            columns[name] = torch.from_numpy(values)
        return columns

    def _transformed(
        self, stream: str, values: np.ndarray, lengths: np.ndarray, examples: np.ndarray, draw: Draw | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Apply the `data.transforms` of a stream to concatenated values of examples; returns values and lengths."""
        if draw is None:
            return values, lengths
        for name, config in draw.config.transforms.items():
            if name not in self._made:
                self._made[name] = registry.find("transform", config.type)(config, self.task)
            if self._made[name].stream == stream:
                random = seeds(draw.seed, draw.epoch, examples, f"transform {name}")
                values, lengths = self._made[name](values, lengths, random)
        return values, lengths

    def _target(self, examples: np.ndarray, draw: Draw | None) -> tuple[np.ndarray, np.ndarray]:
        """Concatenated target ids of examples, in the order in which the model writes them, and their lengths."""
        if draw is None:
            ids, lengths = self.split.gather(TOKENS, examples)
        else:
            ids, lengths = self._tokens("target", self.task.target_tokenizer, examples, draw, 0.0)
        ids, lengths = self._transformed("target", ids, lengths, examples, draw)
        transform = self.task.target_transform
        if not transform.is_none:
            ids = np.concatenate([transform.apply(row) for row in np.split(ids, np.cumsum(lengths)[:-1])])
        return ids, lengths

    def _tokens(self, side: str, tokenizer: Tokenizer, examples: np.ndarray, draw: Draw, noise: float):
        """Concatenated ids of examples and their lengths, tokenized again if the tokenizer samples or noise is added to
        the text."""
        if not noise and not tokenizer.sampling:
            return self.split.gather(f"{side}.tokens", examples)
        lines = self.split.lines(f"{side}.text", examples)
        if noise:
            random = seeds(draw.seed, draw.epoch, examples, "character_noise")
            lines = [noisy(line, seed, noise) for line, seed in zip(lines, random.tolist(), strict=True)]
        if not tokenizer.sampling:
            ids, lengths = tokenizer.encode_flat(lines)
        else:
            ids, lengths = tokenizer.sample(lines, seeds(draw.seed, draw.epoch, examples, f"sampling {side}"))
        return ids.astype(np.int64), lengths.astype(np.int64)


def padded(ids: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Concatenated rows as a tensor [B, longest] int64, padded on the right."""
    rows = np.full((len(lengths), lengths.max()), PAD, np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = ids
    return torch.from_numpy(rows)


def packing_of(lengths: np.ndarray, rows: np.ndarray) -> Packing:
    """The places of examples in packed rows.

    Args:
        lengths: [n], of the examples.
        rows: [B], how many examples each row has.
    """
    ends = np.cumsum(rows)
    totals = np.add.reduceat(lengths, ends - rows)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    number = np.repeat(np.arange(len(lengths)) - np.repeat(ends - rows, rows), lengths)
    segments = np.broadcast_to(rows[:, None] - 1, (len(rows), totals.max())).copy()
    segments[np.arange(segments.shape[1]) < totals[:, None]] = number
    return Packing(torch.from_numpy(segments), padded(place, totals))
