"""From raw parallel text to a store: learn the tokenizers, then read, filter, encode and write in one parallel pass.

Chunks of pairs go to worker processes and come back as compact arrays, in order and with a bounded number on the way,
so that memory does not grow with the corpus and the files do not depend on the number of workers.
"""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from s2s import __version__, registry
from s2s.config.schema import LARGEST_SEED, group, option
from s2s.config.streams import read_twice
from s2s.data.corpus import Chunk, Corpus
from s2s.data.lines import MAX_LINE_BYTES
from s2s.data.processes import cores, pool, progress
from s2s.data.ragged import RaggedWriter
from s2s.data.report import Premium, SideCounts, bar_width, premium_sums, table, unknown_tokens
from s2s.data.store import SIDES, TEXT, Store, token_type
from s2s.data.store_writer import StoreWriter
from s2s.data.unknown import LINES, check_unknown, unknown_lines
from s2s.errors import Failure, UserError
from s2s.files import check_apart, clear, write
from s2s.text.tokenizer import LearningError, Tokenizer, load_tokenizer

TOKENIZER = "sentencepiece"  # the default


@dataclasses.dataclass
class FilterConfig:
    """Which training pairs are kept. Validation and test keep every line."""

    min_length: int = option(1, "fewest tokens of a side", at_least=0)
    max_length: int = option(1024, "most tokens of a side", at_least=1)
    max_ratio: float | None = option(None, "longer side over shorter side, in tokens; null: any", at_least=1)


@dataclasses.dataclass
class PreprocessConfig:
    """Schema of `s2s-preprocess`."""

    task: str = option("translation", "what a store is made for; its keys are those of the task")
    source: str = option("source", "source language: the ending of the source files")
    target: str = option("target", "target language: the ending of the target files")
    train: list[str] = option([], "training corpora: prefixes (PREFIX.de and PREFIX.en), TSV files, - (TSV on stdin)")
    valid: list[str] = option([], "validation corpora, joined into one split")
    test: list[str] = option([], "test corpora: splits test, test1, test2 ...")
    store: str | None = option(None, "folder to write")
    overwrite: bool = option(False, "replace the store that is there")
    tokenizer: Any = group("tokenizer", TOKENIZER, "tokenizer of both sides")
    source_tokenizer: Any = group("tokenizer", None, "tokenizer of the source side, if not `tokenizer`")
    target_tokenizer: Any = group("tokenizer", None, "tokenizer of the target side, if not `tokenizer`")
    tokenizer_from: str | None = option(None, "a store whose tokenizers and vocabularies are used instead")
    filter: FilterConfig = option(FilterConfig, "")
    keep_text: bool = option(False, "keep the raw text of the training split too")
    max_line_bytes: int = option(MAX_LINE_BYTES, "a longer line of a corpus is an error", at_least=1)
    shard_pairs: int = option(10_000_000, "pairs of a shard; a full one is closed and the next begun", at_least=1)
    workers: int | None = option(None, "processes; null: one for each core", at_least=1, at_most=1024)
    seed: int = option(1, "of the sample of lines that a tokenizer learns from", at_least=0, at_most=LARGEST_SEED)
    format: str = option("text", "of the report", choices=("text", "json"))


def preprocess(config: PreprocessConfig) -> dict[str, Any]:
    """Make a store.

    Returns:
        The report: the path and digest of the store, what became of the pairs of each split, seconds.

    Raises:
        UserError: anything wrong with the corpora or the settings; no store is left behind.
    """
    began = time.perf_counter()
    if config.store is None:
        raise UserError("store is needed: the folder to write, such as store=data-bin/mine")
    splits = _find_corpora(config)
    check_apart(config.store, "store", _inputs(config))
    with StoreWriter(config.store, config.overwrite, config.shard_pairs) as writer:
        tokenizers = _tokenizers(config, splits.get("train", []))
        for side, tokenizer in zip(SIDES, tokenizers, strict=True):
            writer.add_tokenizer(tokenizer, side)
        _loaded.cache_clear()  # of another store at this place
        with pool(config.workers or cores()) as submit:
            facts = {
                name: _write_split(name, corpora, config, tokenizers, writer, submit)
                for name, corpora in splits.items()
            }
        report = {
            "source_language": config.source,
            "target_language": config.target,
            "vocabularies": _by_side(tokenizers, lambda t: {"size": len(t.vocabulary), "digest": t.vocabulary.digest}),
            "splits": facts,
        }
        complaint = write_report(report, table(report), writer.folder)
        manifest = writer.commit(
            {
                "s2s": __version__,
                "task": "translation",
                "seed": config.seed,
                "filter": dataclasses.asdict(config.filter),
                "tokenizers": _by_side(tokenizers, lambda tokenizer: dataclasses.asdict(tokenizer.config)),
                **report,
            }
        )
    if complaint:
        raise without_picture(config.store, complaint)
    seconds = round(time.perf_counter() - began, 2)
    return {"store": config.store, "digest": manifest["digest"], **report, "seconds": seconds}


def _inputs(config: PreprocessConfig) -> Iterator[str | None]:
    """The paths that a store is made from."""
    yield from (*config.train, *config.valid, *config.test, config.tokenizer_from)
    yield from given(config.tokenizer, config.source_tokenizer, config.target_tokenizer)


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


def without_picture(store: str, complaint: str) -> Failure:
    """What is said of a store that lacks its picture."""
    return Failure(f"{store}: the store is complete, but its report.png could not be drawn: {complaint}")


def _find_corpora(config: PreprocessConfig) -> dict[str, list[Corpus]]:
    """The corpora of each split, all known to be there."""
    names = {"train": config.train, "valid": config.valid}
    names |= {f"test{number or ''}": [name] for number, name in enumerate(config.test)}
    if not any(names.values()):
        raise UserError("no corpus: train=PREFIX reads PREFIX.SOURCE and PREFIX.TARGET")
    find = partial(Corpus.find, source=config.source, target=config.target, max_line_bytes=config.max_line_bytes)
    own = (config.source_tokenizer, config.target_tokenizer)
    sides = [one or config.tokenizer for one in own]
    if config.tokenizer.joint and own == (None, None):
        sides = sides[:1]
    check_streams([*config.train, *config.valid, *config.test, *given(*sides)])
    return {split: [find(name) for name in of_split] for split, of_split in names.items() if of_split}


def _bytes(corpora: list[Corpus]) -> int | None:
    """What there is to read, as progress is counted; None: unknown."""
    sizes = [corpus.size for corpus in corpora]
    return None if None in sizes else sum(sizes)


def _by_side(pair: Iterable, value: Callable) -> dict[str, Any]:
    return {side: value(item) for side, item in zip(SIDES, pair, strict=True)}


# Tokenizers


def _tokenizers(config: PreprocessConfig, train: list[Corpus]) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizers of both sides, reused or learned on the training text; the same object twice if they are one."""
    if config.tokenizer_from is not None:
        return _reused(config)

    def learn(key: str, *sides: str) -> Tokenizer:
        choice = getattr(config, key)
        try:
            with progress(f"learn {' and '.join(sides)}", _bytes(train)) as bar:
                return registry.find("tokenizer", choice.type).learn(choice, _text(train, sides, bar), config.seed)
        except LearningError as error:
            raise UserError(f"{key} ({' and '.join(sides)}): {error}") from error

    own = {side: f"{side}_tokenizer" for side in SIDES if getattr(config, f"{side}_tokenizer") is not None}
    if config.tokenizer.joint and not own:
        tokenizer = learn("tokenizer", *SIDES)
        return tokenizer, tokenizer
    return tuple(learn(own.get(side, "tokenizer"), side) for side in SIDES)


def _reused(config: PreprocessConfig) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizers of another store, by language where its direction is the other one."""
    chosen = (config.source_tokenizer, config.target_tokenizer)
    if chosen != (None, None) or config.tokenizer != registry.find("tokenizer", TOKENIZER).Config():
        raise UserError("tokenizer_from and tokenizer options exclude each other: choose one of them")
    store = Store(config.tokenizer_from)
    source, target = store.tokenizers()
    turned = (store.target_language, store.source_language) == (config.source, config.target)
    return (target, source) if turned else (source, target)


def _text(corpora: list[Corpus], sides: tuple[str, ...], bar: Callable[[int], Any]) -> Iterator[list[str]]:
    """Lines of the given sides of all corpora, some at a time; tells `bar` the bytes read."""
    if not corpora:
        raise UserError("train is needed: a tokenizer learns from the training text (or tokenizer_from=STORE)")
    for corpus in corpora:
        if corpus.is_stream:
            raise UserError(
                f"train={corpus.name}: a pipe can be read once, so no tokenizer can be learned from it; give one: "
                "tokenizer_from=STORE, tokenizer.model=FILE, tokenizer.vocabulary=FILE or tokenizer=bytes"
            )
    for corpus in corpora:
        for chunk in corpus.chunks():
            lines = dict(zip(SIDES, chunk.lines(), strict=True))
            yield from (lines[side] for side in sides)
            bar(chunk.read)


# One chunk, in a worker


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker does with a chunk.

    Attributes:
        folder: Where the tokenizers are.
        joint: Whether both sides have the same.
        filter: None for splits that keep every line.
        text: Keep the raw lines.
    """

    folder: Path
    joint: bool
    filter: FilterConfig | None
    text: bool


@dataclasses.dataclass
class Side:
    """One side of the kept pairs of a chunk: ids, their number in each line, and the raw lines where they are kept."""

    ids: np.ndarray
    lengths: np.ndarray
    unknown: int
    characters: int
    text: bytes
    text_lengths: np.ndarray
    unknown_lines: list[str]  # some, where much is unknown

    @classmethod
    def of(cls, tokenizer: Tokenizer, text: str, ids: np.ndarray, lengths: np.ndarray, unknown: np.ndarray, keep: bool):
        """That of lines, with line feeds between them, their tokens and how many of each are unknown; `keep`: their
        text too."""
        raw = f"{text}\n".encode() if keep and len(lengths) else b""
        ends = np.flatnonzero(np.frombuffer(raw, TEXT) == ord("\n")) + 1
        return cls(
            ids.astype(token_type(len(tokenizer.vocabulary))),
            lengths.astype(np.int32),
            int(unknown.sum()),
            len(text) - max(0, len(lengths) - 1),
            raw,
            np.diff(ends, prepend=0),
            unknown_lines(text, unknown, lengths),
        )


@dataclasses.dataclass
class Encoded:
    """A chunk when it comes back: sides of the kept pairs, and counts of pairs; `premium` as `premium_sums`."""

    sides: dict[str, Side]
    premium: np.ndarray
    pairs: int
    dropped: dict[str, int]
    read: int


def encode(task: Task, chunk: Chunk) -> Encoded:
    """Decode, tokenize and filter one chunk.

    Raises:
        UserError: what `Chunk.texts` raises.
    """
    tokenizers = _loaded(task.folder, task.joint)
    texts, ids, lengths = dict(zip(SIDES, chunk.texts(), strict=True)), {}, {}
    for side, tokenizer in zip(SIDES, tokenizers, strict=True):
        ids[side], lengths[side] = tokenizer.encode_text(texts[side])
    pairs, dropped = len(lengths["source"]), {}
    if task.filter is not None:
        keep, dropped = select(lengths["source"], lengths["target"], task.filter)
        if not keep.all():
            for side in SIDES:
                texts[side] = "\n".join(compress(texts[side].split("\n"), keep.tolist()))
                ids[side], lengths[side] = ids[side][np.repeat(keep, lengths[side])], lengths[side][keep]
    sides, unknown = {}, {}
    for side, tokenizer in zip(SIDES, tokenizers, strict=True):
        unknown[side] = unknown_tokens(ids[side], lengths[side])
        sides[side] = Side.of(tokenizer, texts[side], ids[side], lengths[side], unknown[side], task.text)
    return Encoded(sides, premium_sums(lengths, unknown), pairs, dropped, chunk.read)


def select(source: np.ndarray, target: np.ndarray, rules: FilterConfig) -> tuple[np.ndarray, dict[str, int]]:
    """Which pairs the rules keep, and how many each rule drops; a pair counts for the first rule that drops it.

    Args:
        source: Tokens of each source line, integers [pairs].
        target: Tokens of each target line, integers [pairs].
        rules: The filters.

    Returns:
        Booleans [pairs], and pairs dropped by the name of the rule.
    """
    short, long = np.minimum(source, target), np.maximum(source, target)
    keep, dropped = np.ones(len(source), bool), {}
    bad = {"min_length": short < rules.min_length, "max_length": long > rules.max_length}
    if rules.max_ratio is not None:
        bad["max_ratio"] = long > rules.max_ratio * short
    for rule, mask in bad.items():
        dropped[rule] = int(np.count_nonzero(mask & keep))
        keep &= ~mask
    return keep, dropped


@lru_cache(maxsize=1)
def _loaded(folder: Path, joint: bool) -> tuple[Tokenizer, Tokenizer]:
    """The tokenizers saved in a folder, loaded once in each process."""
    source = load_tokenizer(folder, "source")
    return source, source if joint else load_tokenizer(folder, "target")


# One split


def _write_split(
    name: str,
    corpora: list[Corpus],
    config: PreprocessConfig,
    tokenizers: tuple[Tokenizer, Tokenizer],
    writer: StoreWriter,
    submit: Callable,
) -> dict[str, Any]:
    """Encode and write a split; returns its entry in the manifest."""
    sampled = any(tokenizer.sampling for tokenizer in tokenizers)  # training tokenizes anew
    task = Task(
        writer.folder,
        tokenizers[0] is tokenizers[1],
        config.filter if name == "train" else None,
        name != "train" or config.keep_text or sampled,
    )
    columns = {}
    for side, tokenizer in zip(SIDES, tokenizers, strict=True):
        tokens = writer.column(name, f"{side}.tokens", token_type(len(tokenizer.vocabulary)))
        texts = writer.column(name, f"{side}.text", TEXT) if task.text else None
        columns[side] = SideWriter(tokens, texts)
    read, dropped, counts, premium = 0, Counter(), [], Premium()
    with progress(name, _bytes(corpora)) as bar:
        for corpus in corpora:
            corpus_read = corpus_kept = 0
            for encoded in submit(partial(encode, task), corpus.chunks()):
                for side in SIDES:
                    columns[side].append(encoded.sides[side])
                premium.add(encoded.premium)
                corpus_read += encoded.pairs
                corpus_kept += len(encoded.sides["source"].lengths)
                dropped.update(encoded.dropped)
                bar(encoded.read)
            read += corpus_read
            counts.append({"name": corpus.name, "read": corpus_read, "kept": corpus_kept})
    kept = read - sum(dropped.values())
    if not kept:
        rules = ", ".join(f"filter.{rule} drops {count}" for rule, count in dropped.items() if count)
        raise UserError(f"{', '.join(str(c.source) for c in corpora)}: all {read} pairs are filtered away: {rules}")
    facts = {side: columns[side].facts(bar_width(column.counts for column in columns.values())) for side in SIDES}
    for side, tokenizer, other in zip(SIDES, tokenizers, tokenizers[::-1], strict=True):
        what = f"{name}, {getattr(config, side)}"
        check_unknown(what, tokenizer, other, facts[side], columns[side].unknown_lines, training=name == "train")
    return {
        "pairs": kept,
        "shards": tokens.shards,  # those of all columns: each holds every pair
        "read": read,
        "dropped": dict(dropped),
        "corpora": counts,
        "text": task.text,
        "premium": premium.facts(),
        **facts,
    }


class SideWriter:
    """Writes one side of a split and counts what the report says about it."""

    def __init__(self, tokens: RaggedWriter, text: RaggedWriter | None):
        self._tokens, self._text = tokens, text
        self.counts = SideCounts()
        self.unknown_lines: list[str] = []

    def append(self, side: Side) -> None:
        self._tokens.append(side.ids, side.lengths)
        if self._text is not None:
            self._text.append(np.frombuffer(side.text, TEXT), side.text_lengths)
        self.counts.add(side.lengths, side.unknown, side.characters)
        self.unknown_lines += side.unknown_lines[: LINES - len(self.unknown_lines)]

    def facts(self, bar: int) -> dict[str, Any]:
        return {"type": self._tokens.dtype.str, **self.counts.facts(bar)}
