"""Preprocessing of parallel text: a task declares the fields of a line, learns tokenizers, and then reads, filters and
encodes lines in worker processes (`s2s.data.recipe`)."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property, lru_cache, partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from s2s import registry
from s2s.checkpoint import runs
from s2s.config.schema import group, option
from s2s.data import tables
from s2s.data.columns import Column, tokens
from s2s.data.corpus import SIDES, Chunk, Corpus
from s2s.data.directions import DirectedCorpus, find_directed, languages, parse_directions
from s2s.data.lines import MAX_LINE_BYTES
from s2s.data.processes import progress
from s2s.data.recipe import TOKENIZER, Encoded, Recipe, RecipeConfig, check_streams, given, make, of_lines
from s2s.data.repeats import hashes
from s2s.data.report import premium_facts, premium_sums, table
from s2s.data.shards import Share, not_learned
from s2s.data.store import Store
from s2s.data.store_writer import StoreWriter
from s2s.data.verdicts import JudgedCorpus, judge
from s2s.errors import UserError
from s2s.parts import Shard
from s2s.text.extension import widened
from s2s.text.tokenizer import LearningError, Tokenizer, check_output, load_tokenizer
from s2s.text.vocabulary import read_symbols


@dataclasses.dataclass
class FilterConfig:
    """Filters of training pairs. Validation and test splits keep every line."""

    min_length: int = option(1, "minimum number of tokens on each side", at_least=0)
    max_length: int = option(1024, "maximum number of tokens on each side", at_least=1)
    max_ratio: float | None = option(
        None, "maximum ratio of the longer to the shorter side, in tokens; null: any", at_least=1
    )
    command: str | None = option(
        None, "shell command, run once for each training corpus; it reads all pairs of the corpus, as lines of fields "
        "with tabs between them, and writes a line for each: 1 keeps the pair, 0 drops it",
    )  # fmt: skip


@dataclasses.dataclass
class PreprocessConfig(RecipeConfig):
    """Schema of `s2s-preprocess`."""

    task: str = option("translation", "task of the store; it decides which other keys there are")
    source: str = option("source", "source language, which is the ending of the source files")
    target: str = option("target", "target language, which is the ending of the target files")
    languages: list[str] = option(
        [], "directions of a store of several, in place of source and target, such as [de-en,fr-en,en-de]: of a prefix "
        "its files PREFIX.de and PREFIX.en, or PREFIX.de-en.de and PREFIX.de-en.en; in a TSV file two columns before "
        "the others are the languages of each line; <de> and so on become symbols of the vocabularies",
    )  # fmt: skip
    zero_shot: list[str] = option(
        [], "further directions, of validation and test data alone, such as [de-fr]", needs="languages"
    )
    train: list[str] = option(
        [],
        "training corpora: prefixes (PREFIX.de and PREFIX.en), .tsv, .jsonl and .parquet files, folders of "
        "Hugging Face datasets, - (TSV on standard input)",
    )
    valid: list[str] = option([], "validation corpora, joined into one split")
    test: list[str] = option([], "test corpora: splits test, test1, test2 ...")
    columns: list[str] = option(
        [], "columns of tables: numbers from 1 or names of the header line in TSV files, keys of JSON objects, fields "
        "of Parquet files and datasets, such as translation.de; empty: all of a TSV file, otherwise source and target",
    )  # fmt: skip
    tokenizer: Any = group("tokenizer", TOKENIZER, "tokenizer of both sides")
    source_tokenizer: Any = group("tokenizer", None, "tokenizer of the source side, if not `tokenizer`")
    target_tokenizer: Any = group("tokenizer", None, "tokenizer of the target side, if not `tokenizer`")
    tokenizer_from: str | None = option(None, "store, run or checkpoint whose tokenizers to use instead")
    more_symbols: str | None = option(
        None, "file of symbols to add to those tokenizers, one per line: characters, or texts that are never cut",
        needs="tokenizer_from",
    )  # fmt: skip
    more_reserved: list[str] = option(
        [], "reserved symbols to add to those tokenizers, such as [<gsw>]", needs="tokenizer_from"
    )
    filter: FilterConfig = option(FilterConfig, "which pairs are left out")
    keep_text: bool = option(False, "also keep the raw text of the training split")
    max_line_bytes: int = option(
        MAX_LINE_BYTES, "maximum length of a line, in bytes; a longer line is an error", at_least=1
    )


@dataclasses.dataclass(frozen=True)
class Field:
    """A field of each line of a corpus: a line of the file PREFIX.ENDING, or a column of a TSV file.

    Attributes:
        name: Name of its column; for `tokens`, its columns are NAME.tokens and NAME.text.
        ending: Ending of its files.
        kind: `tokens` (made by a tokenizer), `text` (the line itself), `number` (a single number), or `array` (numbers
            separated by spaces).
        type: Type of numbers and arrays (`s2s.data.columns.KINDS`).
        width: Values per row of an array.
    """

    name: str
    ending: str
    kind: str = "tokens"
    type: str = "<f8"
    width: int = 1

    @property
    def column(self) -> Column:
        """The column of a field that is not `tokens`."""
        return Column(self.name, self.kind, *(() if self.kind == "text" else (self.type, self.width)))


def preprocess(config: PreprocessConfig) -> dict[str, Any]:
    """Make a store of parallel text: see `make`."""
    return make(TextRecipe(config))


class TextRecipe(Recipe[PreprocessConfig]):
    """Text to text."""

    Config = PreprocessConfig

    def fields(self) -> list[Field]:
        """The fields of each line; `source` and `target` must be among them."""
        return [Field("source", self.config.source), Field("target", self.config.target)]

    def inputs(self) -> Iterator[str | None]:
        """As in Recipe."""
        config = self.config
        yield from (*config.train, *config.valid, *config.test, config.tokenizer_from)
        yield from given(config.tokenizer, *self._own.values())

    @property
    def symbols(self) -> tuple[str, ...]:
        """As in Recipe, with the languages of a store of several directions."""
        return (*super().symbols, *(f"<{language}>" for language in languages(self._directions)))

    @property
    def languages(self) -> dict[str, str]:
        """As in Recipe."""
        if not self._directions:
            return super().languages
        return {f"{side}_language": ",".join(dict.fromkeys(language))
                for side, language in zip(SIDES, zip(*self._directions, strict=True), strict=True)}  # fmt: skip

    def corpus_facts(self, corpus: Corpus) -> dict[str, Any]:
        """As in Recipe: the languages of a corpus, if there are several directions."""
        corpus = corpus.corpus if isinstance(corpus, JudgedCorpus) else corpus
        if not isinstance(corpus, DirectedCorpus):
            return {}
        return {"source_language": corpus.source_language, "target_language": corpus.target_language}

    @cached_property
    def _directions(self) -> list[tuple[str, str]]:
        config = self.config
        directions = parse_directions(config.languages)
        if directions and (config.source, config.target) != ("source", "target"):
            raise UserError("languages= names all directions; leave source= and target= out")
        if directions and config.columns:
            raise UserError("languages= and columns= exclude each other: languages= says what the columns are")
        if directions and [field.name for field in self.fields()] != list(SIDES):
            raise UserError(f"languages=: task={config.task} reads other fields than a source and a target")
        return directions

    def _find_directed(self) -> dict[str, list[Corpus]]:
        """The corpora of each direction, for each split. Raises UserError: training data lack a direction."""
        most, directions = self.config.max_line_bytes, self._directions
        everything = parse_directions([*self.config.languages, *self.config.zero_shot])
        if unknown := set(languages(everything)) - set(languages(directions)):
            raise UserError(f"zero_shot: the language {unknown.pop()} is in none of the directions of languages=")
        corpora = {split: [corpus for name in of_split
                           for corpus in find_directed(name, directions if split == "train" else everything, most)]
                   for split, of_split in self.named.items()}  # fmt: skip
        having = {corpus.direction for corpus in corpora.get("train", [])}
        if having and (missing := [direction for direction in self._directions if direction not in having]):
            raise UserError(f"train={','.join(self.config.train)}: no corpus has the direction {'-'.join(missing[0])}")
        return corpora

    def find(self) -> None:
        """As in Recipe."""
        config, fields = self.config, self.fields()
        if not self.named:
            raise UserError("no corpus is given; train=PREFIX reads PREFIX.SOURCE and PREFIX.TARGET")
        if config.filter.command and not config.train:
            raise UserError("filter.command= does nothing without train=, whose pairs it reads")
        if self._directions:
            self._corpora = self._find_directed()
            return
        find = partial(tables.find, endings=[field.ending for field in fields], max_line_bytes=config.max_line_bytes,
                       names=[field.name for field in fields], columns=config.columns)  # fmt: skip
        sides = [self._own.get(name, config.tokenizer) for name in self._streams]
        if config.tokenizer.joint and not self._own:
            sides = sides[:1]
        check_streams([*config.train, *config.valid, *config.test, *given(*sides)])
        self._corpora = {split: [find(name) for name in of_split] for split, of_split in self.named.items()}
        every = [corpus for of_split in self._corpora.values() for corpus in of_split]
        if config.columns and not any(isinstance(corpus, tables.TableCorpus) for corpus in every):
            raise UserError(f"columns={','.join(config.columns)}: does nothing without a table: .tsv, .jsonl, .parquet")

    def data(self) -> list[Path]:
        """As in Recipe."""
        if self.config.filter.command:
            raise UserError(f"shard={self.config.shard} and filter.command= exclude each other: the command reads "
                            "whole corpora; run it before")  # fmt: skip
        return [path for of_split in self._corpora.values() for corpus in of_split for path in corpus.paths]

    def take(self, shard: Shard) -> None:
        """As in Recipe."""
        self._corpora = {
            split: [Share(corpus, shard) for corpus in of_split] for split, of_split in self._corpora.items()
        }

    def before(self, writer: StoreWriter) -> None:
        """Run the user's filter, and learn or load the tokenizers."""
        if command := self.config.filter.command:
            train = self._corpora.get("train", [])
            with progress("filter.command", self.total(train)) as bar:
                self._corpora["train"] = [judge(corpus, command, bar) for corpus in train]
        if self.learned is not None:
            self._tokenizers = {name: load_tokenizer(self.learned, name) for name in self._streams}
        else:
            self._tokenizers = self._reused() if self.config.tokenizer_from is not None else self._learned()
        for name, tokenizer in self._tokenizers.items():
            writer.add_tokenizer(tokenizer, name)
        _loaded.cache_clear()  # it may have the tokenizers of an earlier store in the same folder

    @property
    def tokenizers(self) -> dict[str, Tokenizer]:
        return self._tokenizers

    def splits(self, submit: Callable, writer: StoreWriter) -> dict[str, list[Corpus]]:
        """As in Recipe."""
        return self._corpora

    def columns(self, split: str) -> list[Column]:
        """As in Recipe."""
        columns = []
        for field in self.fields():
            if field.kind == "tokens":
                columns.append(tokens(f"{field.name}.tokens", len(self._tokenizers[field.name].vocabulary)))
                columns += [Column(f"{field.name}.text", "text")] * self._keeps_text(split)
            else:
                columns.append(field.column)
        return columns

    def _keeps_text(self, split: str) -> bool:
        sampled = any(tokenizer.sampling for tokenizer in self._tokenizers.values())  # training tokenizes again
        return split != "train" or self.config.keep_text or sampled

    def work(self, split: str, folder: Path) -> partial:
        """As in Recipe."""
        first: dict[int, str] = {}
        same = tuple((name, first.setdefault(id(tokenizer), name)) for name, tokenizer in self._tokenizers.items())
        rules = self.config.filter if split == "train" else None
        return partial(encode, Work(folder, same, tuple(self.fields()), rules, self._keeps_text(split)))

    def total(self, corpora: list[Corpus]) -> int | None:
        """As in Recipe."""
        sizes = [corpus.size for corpus in corpora]
        return None if None in sizes else sum(sizes)

    def split_facts(self, split: str, corpora: list, facts: dict[str, Any], sums: dict[str, Any]) -> dict[str, Any]:
        """As in Recipe, with the tokenizer premium."""
        return {**facts, "premium": premium_facts(sums["premium"])} if "premium" in sums else facts

    def table(self, report: dict[str, Any]) -> str:
        """As in Recipe."""
        return table(report)

    # Tokenizers

    @property
    def _streams(self) -> list[str]:
        return [field.name for field in self.fields() if field.kind == "tokens"]

    @property
    def _own(self) -> dict[str, Any]:
        """Stream -> config of its tokenizer, for streams that do not use `tokenizer`."""
        configs = {name: getattr(self.config, f"{name}_tokenizer", None) for name in self._streams}
        return {name: config for name, config in configs.items() if config is not None}

    def _learned(self) -> dict[str, Tokenizer]:
        """Learn the tokenizers on the training text; streams with a joint tokenizer share one object."""
        own = self._own
        if self.config.tokenizer.joint and not own:
            return dict.fromkeys(self._streams, self._learn("tokenizer", self._streams))
        keys = {name: f"{name}_tokenizer" if name in own else "tokenizer" for name in self._streams}
        return {name: self._learn(key, [name]) for name, key in keys.items()}

    def _learn(self, key: str, streams: Sequence[str]) -> Tokenizer:
        choice, train = self.with_reserved(getattr(self.config, key)), self._corpora.get("train", [])
        if "target" in streams:
            check_output(choice, key)
        try:
            with progress(f"learn {' and '.join(streams)}", self.total(train)) as bar:
                tokenizer = registry.find("tokenizer", choice.type)
                texts = _text(train, streams, bar) if self.shard is None else not_learned(self.shard)
                return tokenizer.learn(choice, texts, self.config.seed)
        except LearningError as error:
            raise UserError(f"{key} ({' and '.join(streams)}): {error}") from error

    @staticmethod
    def _of_checkpoint(path: str) -> dict[str, Tokenizer]:
        """The tokenizers of a run or checkpoint; empty: the path is none."""
        if not runs.steps(Path(path)) and not runs.is_checkpoint(Path(path)):
            return {}
        folder = runs.resolve(path)
        names = sorted(file.name.partition(".")[0] for file in folder.glob("*.tokenizer.json"))
        return {name: load_tokenizer(folder, name) for name in names}

    def _reused(self) -> dict[str, Tokenizer]:
        """The tokenizers of a checkpoint or of another store; swapped if the store's languages are those of this one in
        reverse."""
        config = self.config
        if self._own or config.tokenizer != registry.find("tokenizer", TOKENIZER).Config():
            raise UserError("tokenizer_from and tokenizer options exclude each other; choose one of them")
        loaded = self._of_checkpoint(config.tokenizer_from)
        if not loaded:
            store = Store(config.tokenizer_from)
            loaded = store.tokenizers()
            if (store.target_language, store.source_language) == (config.source, config.target) and "source" in loaded:
                loaded = {**loaded, "source": loaded["target"], "target": loaded["source"]}
        if missing := [name for name in self._streams if name not in loaded]:
            names = ", ".join(loaded)
            raise UserError(f"tokenizer_from={config.tokenizer_from}: has no tokenizer for {missing[0]}; it has "
                            f"tokenizers for {names}")  # fmt: skip
        loaded = self._widened({name: loaded[name] for name in self._streams})
        self.check_reserved(loaded.values())
        return loaded

    def _widened(self, tokenizers: dict[str, Tokenizer]) -> dict[str, Tokenizer]:
        """Tokenizers with the symbols of `more_symbols` and `more_reserved`. Raises UserError if they have them all."""
        config = self.config
        if config.more_symbols is None and not config.more_reserved:
            return tokenizers
        symbols = [] if config.more_symbols is None else [symbol for _, symbol in read_symbols(config.more_symbols)]
        made = {id(one): widened(one, symbols, config.more_reserved) for one in tokenizers.values()}
        if all(made[id(one)] is one for one in tokenizers.values()):
            raise UserError(
                f"tokenizer_from={config.tokenizer_from}: has all symbols of more_symbols and more_reserved"
            )
        return {name: made[id(one)] for name, one in tokenizers.items()}


def _text(corpora: list[Corpus], streams: Sequence[str], bar: Callable[[int], Any]) -> Iterator[list[str]]:
    """Lists of lines of the given streams of all corpora; `bar` is called with the bytes read."""
    if not corpora:
        raise UserError("train= is required to learn a tokenizer (or give tokenizer_from=STORE)")
    for corpus in corpora:
        if corpus.is_stream:
            raise UserError(
                f"train={corpus.name}: a pipe can be read only once, so no tokenizer can be learned from it; give one: "
                "tokenizer_from=STORE, tokenizer.model=FILE, tokenizer.vocabulary=FILE or tokenizer=bytes"
            )
    for corpus in corpora:
        for chunk in corpus.chunks():
            columns = chunk.lines()
            if chunk.keep is not None:
                columns = [list(compress(column, chunk.keep.tolist())) for column in columns]
            lines = dict(zip(corpus.names, columns, strict=True))
            yield from (lines[name] for name in streams)
            bar(chunk.read)


# One chunk, in a worker


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of a worker on a chunk.

    Attributes:
        folder: The folder of the tokenizers.
        tokenizers: Each stream of tokens, and the first stream with the same tokenizer.
        fields: The fields of a line.
        filter: The filters; None: every line is kept.
        text: Whether to keep the raw text of streams of tokens.
    """

    folder: Path
    tokenizers: tuple[tuple[str, str], ...]
    fields: tuple[Field, ...]
    filter: FilterConfig | None
    text: bool


def encode(work: Work, chunk: Chunk) -> Encoded:
    """Decode, tokenize and filter one chunk.

    Raises:
        UserError: as `Chunk.texts`; a number is expected in a line that has something else.
    """
    tokenizers = _loaded(work.folder, work.tokenizers)
    texts = dict(zip(chunk.names, chunk.texts(), strict=True))
    parsed = {name: tokenizer.encode_text(texts[name]) for name, tokenizer in tokenizers.items()}
    others = [(place, field) for place, field in enumerate(work.fields) if field.kind != "tokens"]
    for place, field in others:
        if field.kind != "text":
            parsed[field.name] = _numbers(field, texts[field.name], partial(chunk.where, place))
    read, dropped = len(parsed["target"][1]), {}
    if work.filter is not None:
        keep, dropped = select([parsed[name][1] for name in tokenizers], work.filter, chunk.keep)
        if not keep.all():
            parsed = {name: (values[np.repeat(keep, n)], n[keep]) for name, (values, n) in parsed.items()}
            texts = {name: "\n".join(compress(text.split("\n"), keep.tolist())) for name, text in texts.items()}
    encoded, unknown = Encoded({}, {}, read, dropped, chunk.read), {}
    for name, tokenizer in tokenizers.items():
        unknown[name] = encoded.add_tokens(name, tokenizer, texts[name], *parsed[name], work.text)
    for _, field in others:
        count = len(parsed["target"][1])
        encoded.columns[field.name] = of_lines(texts[field.name], count) if field.kind == "text" else parsed[field.name]
    if set(SIDES) <= texts.keys():
        encoded.hashes = hashes(*(texts[side] for side in SIDES))[:, : len(parsed["target"][1])]
    if set(SIDES) <= set(unknown):
        lengths = {name: parsed[name][1] for name in SIDES}
        encoded.sums["premium"] = premium_sums(lengths, unknown).astype(object)
    return encoded


def _numbers(field: Field, text: str, where: Callable[[int], str]) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all lines, and how many each line has. Raises UserError if a line has anything else."""
    kind = np.dtype(field.type)
    rows = []
    for number, line in enumerate(text.split("\n")):
        try:
            rows.append(np.array(line.split(), np.float64 if kind.kind == "f" else np.int64).astype(kind))
            fits = len(rows[-1]) == 1 if field.kind == "number" else len(rows[-1]) % field.width == 0
            if not fits or not np.isfinite(rows[-1]).all():
                raise ValueError
        except (ValueError, OverflowError):
            unit = "an integer" if kind.kind != "f" else "a number"
            expected = unit if field.kind == "number" else f"rows of {field.width} values, each {unit}"
            raise UserError(f"{where(number)}: {field.name}: must be {expected}, not {line[:40]!r}") from None
    return np.concatenate(rows), np.fromiter(map(len, rows), np.int64, len(rows))


def select(lengths: Iterable[np.ndarray], rules: FilterConfig,
           judged: np.ndarray | None = None) -> tuple[np.ndarray, dict[str, int]]:  # fmt: skip
    """Apply the filters to pairs.

    Args:
        lengths: For each side, the number of tokens of each line, integers [pairs].
        rules: The filters.
        judged: Whether the user's command keeps each pair, bool [pairs]; None: there is none.

    Returns:
        Which pairs are kept, bool [pairs]; and filter -> number of pairs dropped. A pair counts for the first filter
        that drops it.
    """
    lengths = list(lengths)
    short, long = np.minimum.reduce(lengths), np.maximum.reduce(lengths)
    keep, dropped = np.ones(len(short), bool), {}
    bad = {} if judged is None else {"command": ~judged}
    bad |= {"min_length": short < rules.min_length, "max_length": long > rules.max_length}
    if rules.max_ratio is not None:
        bad["max_ratio"] = long > rules.max_ratio * short
    for rule, mask in bad.items():
        dropped[rule] = int(np.count_nonzero(mask & keep))
        keep &= ~mask
    return keep, dropped


@lru_cache(maxsize=1)
def _loaded(folder: Path, tokenizers: tuple[tuple[str, str], ...]) -> dict[str, Tokenizer]:
    """Stream -> tokenizer, from the files in a folder; loaded once in each process."""
    loaded: dict[str, Tokenizer] = {}
    for name, first in tokenizers:
        loaded[name] = loaded.get(first) or load_tokenizer(folder, name)
    return loaded
