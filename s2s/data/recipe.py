"""From raw data to a store: what a task does, its recipe, and what is the same for all of them, `make`.

Chunks of examples go to worker processes and come back as compact arrays, in order and with a bounded number on the
way, so that memory does not grow with the data and the files do not depend on the number of workers.
"""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from s2s import __version__
from s2s.config.schema import LARGEST_SEED, option
from s2s.config.streams import read_twice
from s2s.data.columns import BYTES, Column, tokens
from s2s.data.processes import cores, pool, progress
from s2s.data.ragged import RaggedWriter
from s2s.data.report import SideCounts, bar_width, unknown_tokens
from s2s.data.store_writer import StoreWriter
from s2s.data.unknown import LINES, check_unknown, unknown_lines
from s2s.errors import Failure, UserError
from s2s.files import check_apart, clear, write
from s2s.text.tokenizer import Tokenizer

TOKENIZER = "sentencepiece"  # the default


@dataclasses.dataclass
class RecipeConfig:
    """What every task's schema of s2s-preprocess has."""

    task: str = option("", "what a store is made for; its keys are those of the task")
    source: str = option("source", "name of the source's language")
    target: str = option("target", "name of the target's language")
    train: list[str] = option([], "training data")
    valid: list[str] = option([], "validation data, joined into one split")
    test: list[str] = option([], "test data: splits test, test1, test2 ...")
    store: str | None = option(None, "folder to write")
    overwrite: bool = option(False, "replace the store that is there")
    shard_pairs: int = option(10_000_000, "pairs of a shard; a full one is closed and the next begun", at_least=1)
    workers: int | None = option(None, "processes; null: one for each core", at_least=1, at_most=1024)
    seed: int = option(1, "of the sample of lines that a tokenizer learns from", at_least=0, at_most=LARGEST_SEED)
    format: str = option("text", "of the report", choices=("text", "json"))


class Corpus(Protocol):
    """Some raw data of a split."""

    name: str

    def chunks(self) -> Iterator: ...


Work = Callable[[Any], "Encoded"]  # of a chunk; it is pickled
Submit = Callable[[Callable, Iterable], Iterator]


@dataclasses.dataclass
class Stream:
    """What the report counts of the tokens of a stream (source, target) in a chunk."""

    lengths: np.ndarray
    unknown: int = 0
    characters: int = 0
    lines: list[str] = dataclasses.field(default_factory=list)  # some with unknown tokens, where these are many


@dataclasses.dataclass
class Encoded:
    """A chunk when it comes back.

    Attributes:
        columns: Of each column by name the values of the examples that are kept, one after the other, and how many
            each has.
        streams: By name.
        read: Examples that there were.
        dropped: By the rule of the filter.
        done: What the bar of progress counts.
        sums: What else the recipe adds up.
    """

    columns: dict[str, tuple[np.ndarray, np.ndarray]]
    streams: dict[str, Stream]
    read: int
    dropped: dict[str, int]
    done: float
    sums: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def kept(self) -> int:
        return len(next(iter(self.columns.values()))[1])

    def add_tokens(self, name: str, tokenizer: Tokenizer, text: str, ids: np.ndarray, lengths: np.ndarray,
                   keep_text: bool) -> np.ndarray:  # fmt: skip
        """Add the columns and counts of a stream of tokens.

        Args:
            name: Of the stream.
            tokenizer: Its own.
            text: Its lines, with line feeds between them.
            ids: Of all lines, one after the other.
            lengths: Of each line.
            keep_text: Whether lines are kept beside their tokens.

        Returns:
            Unknown tokens of each line, int64 [lines].
        """
        column, unknown = tokens(f"{name}.tokens", len(tokenizer.vocabulary)), unknown_tokens(ids, lengths)
        self.columns[column.name] = ids.astype(column.dtype), lengths.astype(np.int32)
        if keep_text:
            self.columns[f"{name}.text"] = of_lines(text, len(lengths))
        characters = len(text) - max(0, len(lengths) - 1)
        self.streams[name] = Stream(lengths, int(unknown.sum()), characters, unknown_lines(text, unknown, lengths))
        return unknown


def of_lines(text: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """What a column of text holds of so many lines with line feeds between them."""
    raw = f"{text}\n".encode() if count else b""
    values = np.frombuffer(raw, BYTES)
    return values, np.diff(np.flatnonzero(values == ord("\n")) + 1, prepend=0)


Config = TypeVar("Config", bound=RecipeConfig)


class Recipe(ABC, Generic[Config]):
    """How the data of a task become a store: a component of kind `preprocess`, with the task's name.

    Args:
        config: Its `Config`.

    Attributes:
        unit: What examples are called.
        measure: What `done` counts.
        took: How long it took, in words, with keys of the report.
        alike: Whether the lengths of all streams are in the same unit.
        reserved: Symbols that every vocabulary must reserve.
        may_differ: Keys of the facts that may differ between stores that are read as one.
    """

    unit, measure, took = "pairs", "B", "{seconds} s"
    alike = True
    reserved: tuple[str, ...] = ()
    may_differ: tuple[str, ...] = ()

    def __init__(self, config: Config):
        self.config = config

    @abstractmethod
    def inputs(self) -> Iterable[str | None]:
        """The paths that are read."""

    @abstractmethod
    def find(self) -> None:
        """Look for the data, and complain of what is missing; nothing is written yet."""

    def before(self, writer: StoreWriter) -> None:
        """Before there are workers: learn tokenizers, say."""

    def with_reserved(self, config: Any) -> Any:
        """A tokenizer's config with the reserved symbols."""
        return dataclasses.replace(config, reserved=list(dict.fromkeys([*config.reserved, *self.reserved])))

    def check_reserved(self, tokenizers: Iterable[Tokenizer]) -> None:
        """Raise UserError for tokenizers of another store that lack a reserved symbol."""
        for name in self.reserved:
            if any(name not in tokenizer.vocabulary.reserved for tokenizer in tokenizers):
                said = f"tokenizer_from={self.config.tokenizer_from}: its vocabularies do not reserve {name}"
                needed = f"task={self.config.task} needs it; make that store with tokenizer.reserved={name}"
                raise UserError(f"{said}; {needed}")

    @abstractmethod
    def splits(self, submit: Submit, writer: StoreWriter) -> dict[str, list[Corpus]]:
        """The data of each split. By then the writer has the tokenizers."""

    @abstractmethod
    def columns(self, split: str) -> list[Column]:
        """The columns of a split."""

    @abstractmethod
    def work(self, split: str, folder: Path) -> Work:
        """What a worker does with a chunk of a split; `folder` has the tokenizers."""

    @abstractmethod
    def total(self, corpora: list) -> float | None:
        """All of what `done` counts; None: unknown."""

    @property
    @abstractmethod
    def tokenizers(self) -> dict[str, Tokenizer]:
        """By name, once there are some."""

    def facts(self) -> dict[str, Any]:
        """What the store must know of all its data, when all splits are written."""
        return {}

    def split_facts(self, split: str, corpora: list, facts: dict[str, Any], sums: dict[str, Any]) -> dict[str, Any]:
        """What the manifest and the report say of a split, over `facts`, which are the same for all tasks."""
        return facts

    @abstractmethod
    def table(self, report: dict[str, Any]) -> str:
        """The report for people."""

    def seen(self, report: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The report with what is known at the end, the seconds that it took."""
        return {**report, "seconds": round(seconds, 2)}

    @property
    def named(self) -> dict[str, list[str]]:
        """The names of data of each split."""
        names = {"train": self.config.train, "valid": self.config.valid}
        names |= {f"test{number or ''}": [name] for number, name in enumerate(self.config.test)}
        return {split: of_split for split, of_split in names.items() if of_split}


def make(recipe: Recipe) -> dict[str, Any]:
    """Make a store.

    Returns:
        The report: the path and digest of the store, what became of the examples of each split, seconds.

    Raises:
        UserError: anything wrong with the data or the settings; no store is left behind.
    """
    began, config = time.perf_counter(), recipe.config
    if config.store is None:
        raise UserError("store is needed: the folder to write, such as store=data-bin/mine")
    check_apart(config.store, "store", recipe.inputs())
    writer = StoreWriter(config.store, config.overwrite, config.shard_pairs)
    recipe.find()
    with writer:
        recipe.before(writer)
        with pool(config.workers or cores()) as submit:
            splits = recipe.splits(submit, writer)
            facts = {name: _write_split(name, corpora, recipe, writer, submit) for name, corpora in splits.items()}
        tokenizers = recipe.tokenizers
        report = {
            "source_language": config.source,
            "target_language": config.target,
            "vocabularies": {
                name: {"size": len(one.vocabulary), "digest": one.vocabulary.digest} for name, one in tokenizers.items()
            },
            "splits": facts,
        }
        complaint = write_report(report, recipe.table(report), writer.folder)
        manifest = writer.commit(
            {
                "s2s": __version__,
                "task": config.task,
                "seed": config.seed,
                "filter": dataclasses.asdict(config.filter),
                "facts": recipe.facts(),
                "may_differ": list(recipe.may_differ),
                "tokenizers": {name: dataclasses.asdict(one.config) for name, one in tokenizers.items()},
                **report,
            }
        )
    if complaint:
        raise Failure(f"{config.store}: the store is complete, but its report.png could not be drawn: {complaint}")
    found = {"store": config.store, "digest": manifest["digest"], **report}
    return recipe.seen(found, time.perf_counter() - began)


def _write_split(
    name: str, corpora: list[Corpus], recipe: Recipe, writer: StoreWriter, submit: Submit
) -> dict[str, Any]:
    """Encode and write a split; returns what the report says of it."""
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
                read, kept = read + encoded.read, kept + encoded.kept
                dropped.update(encoded.dropped)
                bar(encoded.done)
            counts.append({"name": corpus.name, "read": read, "kept": kept})
    pairs, total = sum(corpus["kept"] for corpus in counts), sum(corpus["read"] for corpus in counts)
    if not pairs:
        rules = ", ".join(f"filter.{rule} drops {count}" for rule, count in dropped.items() if count)
        names = ", ".join(corpus.name for corpus in corpora)
        raise UserError(f"{name}: {names}: all {total} {recipe.unit} are filtered away: {rules}")
    together = [[counted.counts for counted in streams.values()]] * len(streams)
    each = together if recipe.alike else [[counted.counts] for counted in streams.values()]
    facts = {
        stream: counted.counts.facts(bar_width(some))
        for (stream, counted), some in zip(streams.items(), each, strict=True)
    }
    tokenizers = recipe.tokenizers
    for stream, counted in streams.items():
        if stream in tokenizers:
            other = next((one for of, one in tokenizers.items() if of != stream), None)
            language = getattr(recipe.config, stream, stream)
            check_unknown(f"{name}, {language}", tokenizers[stream], other, facts[stream], counted.lines,
                          training=name == "train")  # fmt: skip
    found = {"pairs": pairs, "read": total, "dropped": dict(dropped), "corpora": counts, **facts}
    return recipe.split_facts(name, corpora, found, sums)


def _append(columns: dict[str, RaggedWriter], encoded: Encoded) -> None:
    """Append a chunk. Raises ValueError: it has other columns than were declared."""
    if columns.keys() != encoded.columns.keys():
        raise ValueError(f"columns {sorted(encoded.columns)} were made, and {sorted(columns)} declared")
    for name, (values, lengths) in encoded.columns.items():
        columns[name].append(values, lengths)


class _Counted:
    """What is counted of a stream."""

    def __init__(self):
        self.counts, self.lines = SideCounts(), []

    def add(self, stream: Stream) -> None:
        self.counts.add(stream.lengths, stream.unknown, stream.characters)
        self.lines += stream.lines[: LINES - len(self.lines)]


def given(*tokenizers) -> Iterator[str | None]:
    """The files that tokenizers are made from, by their configs."""
    for tokenizer in tokenizers:
        yield from (getattr(tokenizer, key, None) for key in ("model", "vocabulary"))


def check_streams(paths: Iterable[str | None]) -> None:
    """Raise UserError for a stream that would be read twice. `paths`: what is read, each as often as it is."""
    if (twice := read_twice([path for path in paths if path])) is not None:
        raise UserError(f"{twice}: would be read twice, and a stream can be read only once")


def write_report(report: dict[str, Any], text: str, folder: Path) -> str:
    """Write the report into a store's folder as text and picture.

    Returns:
        Why there is no picture, if there is none: hours of work are not lost for it.
    """
    write(folder / "report.txt", f"{text}\n")
    try:
        from s2s.data.picture import draw  # here, for only who makes a store needs Pillow

        write(folder / "report.png", draw(report))
    except Exception as error:
        clear(folder / "report.png")  # half of it
        return f"{type(error).__name__}: {error}"
    return ""
