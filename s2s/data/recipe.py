"""Makes stores from raw data: each task has a `Recipe`, and `make` is the same for all tasks.

Chunks of examples go to worker processes and come back as compact arrays, in order. The number of chunks in progress is
limited, so memory does not grow with the data. The files do not depend on the number of workers.
"""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from s2s import __version__
from s2s.config.cores import cores
from s2s.config.schema import LARGEST_SEED, option
from s2s.config.streams import read_twice
from s2s.data import shards
from s2s.data.columns import BYTES, Column, tokens
from s2s.data.directions import OWN, parse_tags
from s2s.data.processes import pool, progress
from s2s.data.ragged import RaggedWriter
from s2s.data.repeats import Repeats
from s2s.data.report import SideCounts, bar_width, unknown_tokens
from s2s.data.store_writer import StoreWriter
from s2s.data.unknown import LINES, check_unknown, unknown_lines
from s2s.errors import Failure, UserError
from s2s.files import check_apart, clear, write
from s2s.parts import JOIN, LEARN, Parts, Shard, difference
from s2s.text.tokenizer import Tokenizer

TOKENIZER = "sentencepiece"  # the default tokenizer
LATER = ("command",)  # filters that older stores lack; left out of the manifest if unused, so that digests stay


@dataclasses.dataclass
class RecipeConfig:
    """The options of s2s-preprocess that all tasks have."""

    COMMON = (
        "source", "target", "train", "valid", "test", "store", "task", "tokenizer", "tokenizer.algorithm",
        "tokenizer.vocab_size", "tokenizer.joint", "features.bins", "features.sample_rate", "filter.max_length",
        "filter.max_ratio", "keep_text", "workers", "overwrite",
    )  # fmt: skip

    task: str = option("", "task of the store; it decides which other keys there are")
    source: str = option("source", "name of the source language")
    target: str = option("target", "name of the target language")
    tags: list[str] = option(
        [], "NAME=VALUE of further tags of all examples, such as dataset=talks or origin=synthetic"
    )
    train: list[str] = option([], "training data")
    valid: list[str] = option([], "validation data, joined into one split")
    test: list[str] = option([], "test data: splits test, test1, test2 ...")
    store: str | None = option(None, "folder to write")
    shard: str | None = option(
        None, "K/N: encode part K of N of the data into the folder STORE.parts, as on one of N machines; learn: learn "
        "the tokenizers of all parts; join: make the store of the parts",
    )  # fmt: skip
    overwrite: bool = option(False, "replace an existing store, or part")
    shard_pairs: int = option(10_000_000, "maximum number of pairs in a shard", at_least=1)
    workers: int | None = option(None, "number of processes; null: one for each core", at_least=1, at_most=1024)
    seed: int = option(1, "seed of the sample of lines that a tokenizer learns from", at_least=0, at_most=LARGEST_SEED)
    format: str = option("text", "format of the printed report", choices=("text", "json"))


class Corpus(Protocol):
    """Raw data of a split."""

    name: str

    def chunks(self) -> Iterator: ...


Work = Callable[[Any], "Encoded"]  # encodes a chunk; it must be picklable
Submit = Callable[[Callable, Iterable], Iterator]


@dataclasses.dataclass
class Stream:
    """Counts of the tokens of a stream (source, target) in a chunk, for the report."""

    lengths: np.ndarray
    unknown: int = 0
    characters: int = 0
    lines: list[str] = dataclasses.field(default_factory=list)  # some lines with unknown tokens, if there are many


@dataclasses.dataclass
class Encoded:
    """An encoded chunk.

    Attributes:
        columns: Name of each column -> the concatenated values of the examples kept, and how many each example has.
        streams: Name of each stream -> its counts.
        read: Number of examples in the chunk.
        dropped: Filter -> number of examples dropped.
        done: Amount of work, in the unit of the progress bar.
        sums: Further values of the recipe, which are added up over all chunks.
        hashes: Hashes of the examples kept (`s2s.data.repeats`); None: they are not compared.
    """

    columns: dict[str, tuple[np.ndarray, np.ndarray]]
    streams: dict[str, Stream]
    read: int
    dropped: dict[str, int]
    done: float
    sums: dict[str, Any] = dataclasses.field(default_factory=dict)
    hashes: np.ndarray | None = None

    @property
    def kept(self) -> int:
        return len(next(iter(self.columns.values()))[1])

    def add_tokens(self, name: str, tokenizer: Tokenizer, text: str, ids: np.ndarray, lengths: np.ndarray,
                   keep_text: bool) -> np.ndarray:  # fmt: skip
        """Add the columns and counts of a stream of tokens.

        Args:
            name: Name of the stream.
            tokenizer: Its tokenizer.
            text: Its lines, with line feeds between them.
            ids: Concatenated token ids of all lines.
            lengths: Number of tokens of each line.
            keep_text: Whether to keep the lines as well.

        Returns:
            Number of unknown tokens of each line, int64 [lines].
        """
        column, unknown = tokens(f"{name}.tokens", len(tokenizer.vocabulary)), unknown_tokens(ids, lengths)
        self.columns[column.name] = ids.astype(column.dtype), lengths.astype(np.int32)
        if keep_text:
            self.columns[f"{name}.text"] = of_lines(text, len(lengths))
        characters = len(text) - max(0, len(lengths) - 1)
        self.streams[name] = Stream(lengths, int(unknown.sum()), characters, unknown_lines(text, unknown, lengths))
        return unknown


def of_lines(text: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The values and lengths of a column of text, from `count` lines with line feeds between them."""
    raw = f"{text}\n".encode() if count else b""
    values = np.frombuffer(raw, BYTES)
    return values, np.diff(np.flatnonzero(values == ord("\n")) + 1, prepend=0)


Config = TypeVar("Config", bound=RecipeConfig)


class Recipe(ABC, Generic[Config]):
    """Makes a store from the data of a task: a component of kind `preprocess`, with the task's name.

    Args:
        config: Its `Config`.

    Attributes:
        unit: What examples are called in messages.
        measure: Unit of `Encoded.done`.
        took: Template of the message about the time taken, with keys of the report.
        alike: Whether the lengths of all streams are in the same unit.
        reserved: Symbols that every vocabulary must reserve.
        may_differ: Keys of the facts that may differ between stores that are read as one.
        shard: The part of the data that is encoded; None: all.
        learned: Folder of tokenizers that are learned already; None: there are none.
    """

    unit, measure, took = "pairs", "B", "{seconds} s"
    alike = True
    reserved: tuple[str, ...] = ()
    may_differ: tuple[str, ...] = ()

    def __init__(self, config: Config):
        self.config = config
        self.shard: Shard | None = None
        self.learned: Path | None = None

    @abstractmethod
    def inputs(self) -> Iterable[str | None]:
        """All paths that will be read."""

    @abstractmethod
    def find(self) -> None:
        """Find the data, before anything is written. Raises UserError if something is missing."""

    def before(self, writer: StoreWriter) -> None:
        """Prepare before workers are started, for example learn tokenizers."""

    def data(self) -> Iterable[str | Path]:
        """The files and folders of the data; available after `find`."""
        raise UserError(f"shard={self.config.shard}: task={self.config.task} cannot be divided")

    def take(self, shard: Shard) -> None:
        """Leave out the data of other shards. It is called after `before`; joined in order, the results of all shards
        must be those of all data."""
        raise NotImplementedError

    @property
    def symbols(self) -> tuple[str, ...]:
        """`reserved`, and the symbols that the options require."""
        return self.reserved

    def with_reserved(self, config: Any) -> Any:
        """The config of a tokenizer with the reserved symbols added."""
        return dataclasses.replace(config, reserved=list(dict.fromkeys([*config.reserved, *self.symbols])))

    def check_reserved(self, tokenizers: Iterable[Tokenizer]) -> None:
        """Check that tokenizers of another store have the reserved symbols. Raises UserError."""
        for name in self.symbols:
            if any(name not in tokenizer.vocabulary.reserved for tokenizer in tokenizers):
                problem = f"tokenizer_from={self.config.tokenizer_from}: its vocabularies do not reserve {name}"
                add = f"add it by more_reserved=[{name}]" if hasattr(self.config, "more_reserved") else (
                    f"make that store with tokenizer.reserved={name}")  # fmt: skip
                remedy = f"task={self.config.task} requires it; {add}"
                raise UserError(f"{problem}; {remedy}")

    @abstractmethod
    def splits(self, submit: Submit, writer: StoreWriter) -> dict[str, list[Corpus]]:
        """The data of each split. After this call the writer must have the tokenizers."""

    @abstractmethod
    def columns(self, split: str) -> list[Column]:
        """The columns of a split."""

    @abstractmethod
    def work(self, split: str, folder: Path) -> Work:
        """The function that encodes a chunk of a split in a worker; `folder` has the tokenizers."""

    @abstractmethod
    def total(self, corpora: list) -> float | None:
        """The total of `Encoded.done`; None: unknown."""

    @property
    @abstractmethod
    def tokenizers(self) -> dict[str, Tokenizer]:
        """Stream -> tokenizer; available after `splits`."""

    def facts(self) -> dict[str, Any]:
        """Facts about all data, for the manifest; called after all splits are written."""
        return {}

    @property
    def languages(self) -> dict[str, str]:
        """`source_language` and `target_language` of the store; several with commas between them."""
        return {"source_language": self.config.source, "target_language": self.config.target}

    def corpus_facts(self, corpus: Any) -> dict[str, Any]:
        """Facts about a corpus, beside its counts, for the manifest."""
        return {}

    def split_facts(self, split: str, corpora: list, facts: dict[str, Any], sums: dict[str, Any]) -> dict[str, Any]:
        """Facts about a split, for manifest and report.

        Args:
            split: Name of the split.
            corpora: Its corpora.
            facts: The facts that all tasks have.
            sums: Sums of `Encoded.sums`.
        """
        return facts

    @abstractmethod
    def table(self, report: dict[str, Any]) -> str:
        """The report as readable text."""

    def seen(self, report: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The report with the time taken, in seconds."""
        return {**report, "seconds": round(seconds, 2)}

    @property
    def named(self) -> dict[str, list[str]]:
        """Split -> names of its data in the config."""
        names = {"train": self.config.train, "valid": self.config.valid}
        names |= {f"test{number or ''}": [name] for number, name in enumerate(self.config.test)}
        return {split: of_split for split, of_split in names.items() if of_split}


def make(recipe: Recipe) -> dict[str, Any]:
    """Make a store, or what `shard` says.

    Returns:
        The report: path and digest of the store, facts about each split, and the time taken in seconds. If no store is
        made, `done`: what is.

    Raises:
        UserError: data or options are invalid. No store is left behind.
        Failure: the store is complete, but its picture could not be drawn.
    """
    config = recipe.config
    if own := set(parse_tags(config.tags)) & set(OWN):
        raise UserError(f"tags={','.join(config.tags)}: every store has the tag {own.pop()} already")
    if config.store is None:
        raise UserError("store= is required: the folder to write, such as store=data-bin/mine")
    check_apart(config.store, "store", recipe.inputs())
    if config.shard is None:
        return _store(recipe, pool(config.workers or cores()))
    parts = Parts("store", config.store)
    if config.shard == LEARN:
        return {"done": shards.learn(recipe, parts)}
    if (parts.folder / LEARN).is_dir():
        recipe.learned = parts.folder / LEARN
    if config.shard != JOIN:
        return {"done": shards.encode(recipe, parts, Shard.parse(config.shard, (LEARN, JOIN)))}
    recipe.find()
    task = shards.task(recipe)
    found = parts.read(task)
    replayed = shards.Replayed([(path, facts["sections"]) for path, facts in found], type(recipe).__module__)
    made = {f"tokenizers of shard {number}": facts["tokenizers"] for number, (_, facts) in enumerate(found, 1)}
    report = _store(recipe, nullcontext(replayed), made)
    parts.clear()
    return report


def _store(recipe: Recipe, workers: AbstractContextManager[Submit],
           made: dict[str, dict[str, str]] | None = None) -> dict[str, Any]:  # fmt: skip
    """Make a store; see `make`.

    Args:
        recipe: The recipe; if `made` is given, its data are found already.
        workers: Yields the function that lets workers do their work.
        made: The tokenizers of each part of which the store is made; None: it is made of the data themselves.
    """
    began, config = time.perf_counter(), recipe.config
    tags = parse_tags(config.tags)
    writer = StoreWriter(config.store, config.overwrite, config.shard_pairs)
    if made is None:
        recipe.find()
    with writer:
        recipe.before(writer)
        with workers as submit:
            splits, repeats = recipe.splits(submit, writer), Repeats()
            for part, tokenizers in (made or {}).items():
                if words := difference(tokenizers, shards.hashes(writer.folder), part):
                    raise UserError(f"store={config.store}: {words}: the tokenizers have changed since the part was "
                                    "made; make it again")  # fmt: skip
            facts: dict[str, Any] = dict.fromkeys(splits)  # in this order, but train is written after what is compared
            for name in sorted(splits, key="train".__eq__):
                facts[name] = _write_split(name, splits[name], recipe, writer, submit, repeats)
        for split in facts.values() if tags else ():
            split["corpora"] = [{**corpus, "tags": tags} for corpus in split["corpora"]]
        tokenizers = recipe.tokenizers
        report = {
            **recipe.languages,
            "vocabularies": {
                name: {"size": len(tokenizer.vocabulary), "digest": tokenizer.vocabulary.digest}
                for name, tokenizer in tokenizers.items()
            },
            "splits": facts,
        }
        complaint = write_report(report, recipe.table(report), writer.folder)
        manifest = writer.commit(
            {
                "s2s": __version__,
                "task": config.task,
                "seed": config.seed,
                "filter": {
                    key: value for key, value in dataclasses.asdict(config.filter).items() if value or key not in LATER
                },
                "facts": recipe.facts(),
                "may_differ": list(recipe.may_differ),
                "tokenizers": {name: dataclasses.asdict(tokenizer.config) for name, tokenizer in tokenizers.items()},
                **report,
            }
        )
    if complaint:
        raise Failure(f"{config.store}: the store is complete, but its report.png could not be drawn: {complaint}")
    report = {"store": config.store, "digest": manifest["digest"], **report}
    if repeated := repeats.facts():
        report["repeated"] = repeated
    return recipe.seen(report, time.perf_counter() - began)


def _write_split(
    name: str, corpora: list[Corpus], recipe: Recipe, writer: StoreWriter, submit: Submit, repeats: Repeats
) -> dict[str, Any]:
    """Encode and write a split; returns its facts for the report."""
    columns = {column.name: writer.column(name, column) for column in recipe.columns(name)}
    streams: dict[str, _Counted] = {}
    dropped: Counter[str] = Counter()
    sums: dict[str, Any] = {}
    counts = []
    with progress(name, recipe.total(corpora), recipe.measure) as bar:
        for corpus in corpora:
            read = kept = 0
            for encoded in submit(recipe.work(name, writer.folder), corpus.chunks()):
                _append(columns, encoded)
                for stream, counted in encoded.streams.items():
                    streams.setdefault(stream, _Counted()).add(counted)
                for key, value in encoded.sums.items():
                    sums[key] = sums[key] + value if key in sums else value
                if encoded.hashes is not None:
                    repeats.add(name, encoded.hashes)
                read, kept = read + encoded.read, kept + encoded.kept
                dropped.update(encoded.dropped)
                bar(encoded.done)
            counts.append({"name": corpus.name, "read": read, "kept": kept, **recipe.corpus_facts(corpus)})
    pairs, total = sum(corpus["kept"] for corpus in counts), sum(corpus["read"] for corpus in counts)
    if not pairs:
        rules = ", ".join(f"filter.{rule} drops {count}" for rule, count in dropped.items() if count)
        names = ", ".join(corpus.name for corpus in corpora)
        raise UserError(f"{name}: {names}: the filters drop all {total} {recipe.unit}: {rules}")
    together = [[counted.counts for counted in streams.values()]] * len(streams)
    each = together if recipe.alike else [[counted.counts] for counted in streams.values()]
    facts = {
        stream: counted.counts.facts(bar_width(sides))
        for (stream, counted), sides in zip(streams.items(), each, strict=True)
    }
    tokenizers = recipe.tokenizers
    for stream, counted in streams.items():
        if stream in tokenizers:
            other = next((tokenizer for side, tokenizer in tokenizers.items() if side != stream), None)
            language = recipe.languages.get(f"{stream}_language", getattr(recipe.config, stream, stream))
            check_unknown(f"{name}, {language}", tokenizers[stream], other, facts[stream], counted.lines,
                          training=name == "train")  # fmt: skip
    facts = {"pairs": pairs, "read": total, "dropped": dict(dropped), "corpora": counts, **facts}
    return recipe.split_facts(name, corpora, facts, sums)


def _append(columns: dict[str, RaggedWriter], encoded: Encoded) -> None:
    """Append a chunk. Raises ValueError if its columns are not the declared ones."""
    if columns.keys() != encoded.columns.keys():
        raise ValueError(f"columns {sorted(encoded.columns)} were made, and {sorted(columns)} declared")
    for name, (values, lengths) in encoded.columns.items():
        columns[name].append(values, lengths)


class _Counted:
    """The counts of a stream, over all chunks."""

    def __init__(self):
        self.counts, self.lines = SideCounts(), []

    def add(self, stream: Stream) -> None:
        self.counts.add(stream.lengths, stream.unknown, stream.characters)
        self.lines += stream.lines[: LINES - len(self.lines)]


def given(*tokenizers) -> Iterator[str | None]:
    """The files that the configs of tokenizers name."""
    for tokenizer in tokenizers:
        yield from (getattr(tokenizer, key, None) for key in ("model", "vocabulary", "extend"))


def check_streams(paths: Iterable[str | None]) -> None:
    """Check that no stream is read twice. Raises UserError.

    Args:
        paths: The paths that are read, each as often as it is read.
    """
    if (twice := read_twice([path for path in paths if path])) is not None:
        raise UserError(f"{twice}: would be read twice, and a stream can be read only once")


def write_report(report: dict[str, Any], text: str, folder: Path) -> str:
    """Write the report into the folder of a store, as text and as a picture.

    Returns:
        The error if the picture could not be drawn; otherwise an empty string. It is not raised, so that hours of work
        are not lost.
    """
    write(folder / "report.txt", f"{text}\n")
    try:
        from s2s.data.picture import draw  # imported here, since only this needs Pillow

        write(folder / "report.png", draw(report))
    except Exception as error:
        clear(folder / "report.png")  # it may be incomplete
        return f"{type(error).__name__}: {error}"
    return ""
