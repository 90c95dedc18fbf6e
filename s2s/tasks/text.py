"""What tasks have in common whose target is text: the tokenizer of it, its order in the model, and batches of it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from s2s import registry
from s2s.config import schema
from s2s.data.batch import Inputs, Packing, Source
from s2s.data.iterator import DataConfig, Draw
from s2s.data.spec import Spec
from s2s.data.split import Split
from s2s.data.store import Store, Stores
from s2s.data.target_transforms import target_transform
from s2s.data.transforms import Transform, masked, noisy, seeds
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.tags import Tagged, Tags, plain
from s2s.text.tokenizer import Tokenizer
from s2s.text.vocabulary import BOS, EOS, MASK, PAD, UNK, Vocabulary

TOKENS, TEXT = "target.tokens", "target.text"  # columns of a store


class TextTask(ABC):
    """Says what an example is and builds what the commands need.

    A source, as the commands hand it from `inputs` or `encode` to `collate_sources`, is whatever the task makes of it;
    its `len` is what options of decoding call its length.

    Args:
        target_tokenizer: Of the target side.
        order: The order in which the model writes a target: what chooses a `target_transform`.
        config: The task's own options: its Config, or the values of it; None: the defaults.

    Attributes:
        tag_values: Values of each tag that the training data have, by its name.
        tags: Of these, those that the task's model reads; there is none before there is a model.
    """

    Config: ClassVar[Any]  # the dataclass of its options
    DEFAULTS: ClassVar[dict[str, str]] = {}  # of other keys of s2s-train
    reads = "lines"  # what `encode` takes: lines of text, or recordings
    buffer = 4096  # sources read ahead where decode.buffer does not say it
    max_source = 4096  # tokens, or positions of the encoder, of a source, where decode.max_source does not say it
    shared_vocabulary = False
    columns: ClassVar[tuple[str, ...]] = ()  # of the store, which `Batch.columns` has beside sources and targets
    reserved: ClassVar[tuple[str, ...]] = ()  # symbols that its vocabularies must reserve
    writes = True  # whether its models make hypotheses
    frame_seconds: float | None = None  # from one position of a source to the next, of recordings

    def __init__(self, target_tokenizer: Tokenizer, order: Any = "none", config: Any = None):
        self.target_tokenizer = target_tokenizer
        self.target_transform = target_transform(order, target_tokenizer)
        self.config = schema.load(self.Config, config or {}, "task") if isinstance(config, dict | None) else config
        for name in self.reserved:
            if name not in target_tokenizer.vocabulary.reserved:
                raise UserError(f"task={self.Config.type}: needs the reserved symbol {name}, and the vocabulary has "
                                "none; make the store for this task, or with tokenizer.reserved")  # fmt: skip
        self.tag_values: dict[str, list[str]] = {}
        self.tags: dict[str, list[str]] = {}

    @classmethod
    @abstractmethod
    def setup(cls, store: Store | Stores, order: Any = "none", config: Any = None) -> "TextTask":
        """The task of a store; order and config as of the class. Raises UserError for a store of another task."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, order: Any = "none", config: Any = None) -> "TextTask":
        """The task saved in a checkpoint's folder."""

    def save(self, folder: Path) -> None:
        """Write what `load` reads into a checkpoint's folder."""
        self.target_tokenizer.save(folder, "target")
        tags.save(self.tags, folder)

    @abstractmethod
    def dataset(self, split: Split) -> "TextDataset":
        """The examples of a split."""

    @property
    @abstractmethod
    def spec(self) -> Spec:
        """All that a model knows of this task."""

    def model(self, config) -> torch.nn.Module:
        """A model with fresh weights for this task; `config` is a model component's config. Raises UserError where it
        reads a tag that the data do not have."""
        model = registry.find("model", config.type)(config, self.spec)
        for name in model.tags:
            if name not in self.tag_values:
                has = f"they have {', '.join(self.tag_values)}" if self.tag_values else "they have none"
                raise UserError(f"model={config.type}: reads the tag {name} of the examples; {has}")
        self.tags = {name: self.tag_values[name] for name in model.tags}
        return model

    @abstractmethod
    def encode(self, items: list) -> list:
        """Sources of raw ones, what `reads` says."""

    def encode_each(self, items: list) -> list:
        """As `encode`, but one that cannot be read fails alone: the UserError that says why is in its place."""
        return self.encode(items)

    @abstractmethod
    def inputs(self, split: Split, examples: np.ndarray) -> list:
        """Sources of examples of a split."""

    @abstractmethod
    def source_names(self, split: Split, examples: np.ndarray) -> list[str]:
        """Sources of examples in words, for people."""

    @abstractmethod
    def source_symbols(self, source, size: int) -> list[str]:
        """A source in words, for people: the tokens of a text, or the `size` positions of a recording in the model's
        memory."""

    @abstractmethod
    def padded_sources(self, sources: list) -> tuple[Source, ...]:
        """Several sources, without tags, as the model's input."""

    def check_tags(self, given: Tags) -> None:
        """Raise UserError for tags that are not exactly those that the model reads, with values that it knows."""
        tags.check_read(self.tags, given)
        tags.numbers(self.tags, given)

    def tagged(self, sources: list, tags_of_each: Tags | Sequence[Tags]) -> list:
        """Sources with the tags that the model reads; those that are errors stay what they are.

        Args:
            sources: Of several sentences, as `encode` or `inputs` makes them.
            tags_of_each: Their tags, of all of them or of each; the model need not read all.

        Raises:
            UserError: a tag that the model reads is missing, or has a value that it does not know.
        """
        if not self.tags:
            return sources
        if isinstance(tags_of_each, Mapping):
            found: Iterable = repeat(tags.numbers(self.tags, tags_of_each), len(sources))
        else:
            found = (tags.numbers(self.tags, one) for one in tags_of_each)
        pairs = zip(sources, found, strict=True)
        return [one if isinstance(one, Exception) else Tagged(one, mine) for one, mine in pairs]

    def collate_sources(self, sources: list, device: torch.device | str = "cpu") -> Inputs:
        """Several sources, which are tagged if the model reads tags, as the model's input."""
        padded = tuple(source.to(device) for source in self.padded_sources(list(map(plain, sources))))
        numbers = {name: torch.tensor([one.tags[name] for one in sources], device=device) for name in self.tags}
        return Inputs(padded, numbers)

    @abstractmethod
    def check(self, config: DataConfig, dataset: "TextDataset") -> None:
        """What can be known of training data and its options before training. Raises UserError."""

    def check_transforms(self, config: DataConfig, streams: Sequence[str] = ("source", "target", "shown")) -> None:
        """Raise UserError for one of `data.transforms` that is not for these streams."""
        for name, one in config.transforms.items():
            if (stream := registry.find("transform", one.type).stream) not in streams:
                raise UserError(f"data.transforms: {name} changes the {stream}, and task={self.config.type} has none; "
                                f"it has {', '.join(streams)}")  # fmt: skip

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """Of each side that has one, the source's first."""
        return {"target": self.target_tokenizer.vocabulary}

    def describe(self) -> str:
        """What sources and targets are made of, in a line."""
        return "vocabulary: " + " and ".join(f"{len(found):,} {side}" for side, found in self.vocabularies.items())

    def difference(self, other: "TextTask") -> str | None:
        """What another task has otherwise, so that models of both cannot work together, or None."""
        if type(self) is not type(other):
            return f"another task, {type(other).__name__} against {type(self).__name__}"
        for side, mine in self.vocabularies.items():
            its = other.vocabularies[side]
            if mine.digest != its.digest:
                return f"another {side} vocabulary, of {len(its)} symbols against {len(mine)}"
        if self.tags != other.tags:
            read = (", ".join(f"{name} ({'|'.join(task.tags[name])})" for name in task.tags) for task in (other, self))
            return "other tags, {} against {}".format(*(text or "none" for text in read))
        theirs, ours = other.target_transform, self.target_transform
        same = theirs.config == ours.config
        return None if same else f"another data.target_transform, {theirs.kind} against {ours.kind}"

    def fits(self, store: Store) -> str | None:
        """What a store has otherwise, or None."""
        other = self.setup(store, self.target_transform.config, self.config)
        other.tags = self.tags  # a store has values, and reads none
        return self.difference(other)

    def criterion(self, config):
        return registry.find("criterion", config.type)(config)

    def encode_target(self, lines: list[str]) -> list[list[int]]:
        """Target ids of raw lines in the order in which the model writes them, no BOS, no EOS."""
        return [self.target_transform.apply(ids).tolist() for ids in self.target_tokenizer.encode_lines(lines)]

    def encode_prefixes(self, lines: list[str]) -> list[list[int]]:
        """As `encode_target`, of what hypotheses are to begin with. Where the model writes the last word first, this is
        a line's last word, whole, and the beginning of the others."""
        return self.encode_target([line.rstrip() for line in lines] if self._last_word_first else lines)

    def encode_phrases(self, phrases: list[str]) -> list[list[int]]:
        """As `encode_target`, of what is anywhere in a target. Raises UserError for several words where the model
        writes the last one first: what is beside it in the text is not beside it then."""
        if self._last_word_first and (several := next((one for one in phrases if len(one.split()) > 1), None)):
            raise UserError(f"{several!r}: several words cannot be looked for where the model writes the last word of "
                            "a line first (data.target_transform); single words can")  # fmt: skip
        return self.encode_target(phrases)

    @property
    def _last_word_first(self) -> bool:
        return self.target_transform.moves_words

    def text(self, ids: list[int], source) -> str:
        """An output as text.

        Args:
            ids: Target ids as the model writes them.
            source: What it was written for, without tags, as `encode` or `inputs` makes it.
        """
        return self.target_tokenizer.decode(self.target_transform.undo(np.asarray(ids, np.int64)).tolist())


class TextDataset:
    """The examples of a split, as far as their targets go. Target lengths count the EOS that the model sees.

    Args:
        split: Of a store or of several.
        task: It knows the tokenizers and the order of the targets.
    """

    def __init__(self, split: Split, task: TextTask):
        self.split, self.task = split, task
        self.corpora = split.corpora
        self._firsts = [corpus.first for corpus in self.corpora]
        self._numbers = self._numbers_of_corpora()
        for name in task.columns:
            split.lengths(name, 0, 0)  # one that is missing is told now
        self._made: dict[str, Transform] = {}  # of data.transforms

    def __len__(self) -> int:
        return len(self.split)

    @property
    def longest(self) -> int:
        """Tokens of the longest example on any side, EOS included."""
        return self.split.longest(TOKENS) + 1

    def _numbers_of_corpora(self) -> dict[str, np.ndarray]:
        """The number of each corpus's value of each tag that the model reads, int64 [corpora]."""
        found = []
        for corpus in self.corpora:
            try:
                found.append(tags.numbers(self.task.tags, tags.of_corpus(corpus)))
            except UserError as error:
                raise UserError(f"split '{self.split.name}', corpus {corpus.name}: {error}") from error
        return {name: np.array([mine[name] for mine in found], np.int64) for name in self.task.tags}

    def _tags(self, examples: np.ndarray) -> dict[str, torch.Tensor]:
        """The tags of examples that the model reads."""
        if not self._numbers:
            return {}
        corpora = np.searchsorted(self._firsts, examples, "right") - 1
        return {name: torch.from_numpy(mine[corpora]) for name, mine in self._numbers.items()}

    def _targets(self, examples: np.ndarray, draw: Draw | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The decoder's input (BOS first) and the target (EOS last) of examples, each one after the other, and the
        lengths [n] of either."""
        target, lengths = self._target(examples, draw)
        shown = target
        if draw and draw.config.prev_output_mask:
            random = seeds(draw.seed, draw.epoch, examples, "prev_output_mask")
            symbol = self.task.target_tokenizer.vocabulary.reserved.get(MASK, UNK)
            shown = masked(target, lengths, random, draw.config.prev_output_mask, symbol)
        shown, _ = self._transformed("shown", shown, lengths, examples, draw)
        decoder_input, _ = with_symbol(BOS, shown, lengths, after=False)
        return decoder_input, *with_symbol(EOS, target, lengths, after=True)

    def _columns(self, examples: np.ndarray) -> dict[str, torch.Tensor]:
        """What `Batch.columns` has of examples."""
        found = {}
        for name in self.task.columns:
            values, lengths = self.split.gather(name, examples)
            values = values.astype(np.float32 if values.dtype.kind == "f" else np.int64)
            if self.split.columns[name].kind != "number":
                rows = np.full((len(lengths), lengths.max(), *values.shape[1:]), 0, values.dtype)  # PAD is 0
                rows[np.arange(rows.shape[1]) < lengths[:, None]] = values
                values = rows
            found[name] = torch.from_numpy(values)
        return found

    def _transformed(
        self, stream: str, values: np.ndarray, lengths: np.ndarray, examples: np.ndarray, draw: Draw | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Values of examples after `data.transforms` of a stream."""
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
        """Target ids of examples in the model's order, one after the other, and the number of each."""
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
        """Ids of examples and the number of each: tokenized anew where a tokenizer samples or the text is noisy."""
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


def stages(config: DataConfig) -> list:
    """`data`, and the stages of its curriculum."""
    return [config, *config.stages]


def with_symbol(symbol: int, ids: np.ndarray, lengths: np.ndarray, after: bool) -> tuple[np.ndarray, np.ndarray]:
    """Ids of rows one after the other, with a symbol before or after each, and the new lengths."""
    ends = np.cumsum(lengths)
    return np.insert(ids, ends if after else ends - lengths, symbol), lengths + 1


def padded(ids: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
    """Rows one after the other as [B, longest] int64, padded at the right."""
    rows = np.full((len(lengths), lengths.max()), PAD, np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = ids
    return torch.from_numpy(rows)


def packing_of(lengths: np.ndarray, rows: np.ndarray) -> Packing:
    """Where examples of these lengths lie, with `rows` of them to each row."""
    ends = np.cumsum(rows)
    totals = np.add.reduceat(lengths, ends - rows)
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    number = np.repeat(np.arange(len(lengths)) - np.repeat(ends - rows, rows), lengths)
    segments = np.broadcast_to(rows[:, None] - 1, (len(rows), totals.max())).copy()
    segments[np.arange(segments.shape[1]) < totals[:, None]] = number
    return Packing(torch.from_numpy(segments), padded(place, totals))
