"""What is to be decoded, a window at a time: lines or recordings of a file or a stream, or a split of a store; and
files with lines that belong to them.

A stream (a pipe, standard input) is read once, as it comes: what is known of a file beforehand, how many lines it has
and which of its recordings are broken, is known of a stream when it is there.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from s2s.config.streams import is_stream
from s2s.data.lines import MAX_LINE_BYTES, STANDARD_INPUT, LineReader, decode_lines, too_long
from s2s.data.split import Split
from s2s.decoding.hypothesis import Skipped
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.tags import Tags
from s2s.text.tokenizer import is_blank
from s2s.text.vocabulary import UNK

LINES = 4096  # read at once where nobody waits for them
CHECKED = 64  # recordings

Ids = list[int]
Encode = Callable[[list], list]
NO_TAGS: Tags = MappingProxyType({})
MANIFESTS, LISTS = (".tsv", ".jsonl"), (".txt", ".list")


@dataclass
class Window:
    """Some consecutive sentences, as a task makes them (of text: token ids without EOS); `companions` are target
    prefixes, or targets to score, `constraints` the phrases that the hypotheses of each sentence must hold. A source
    may be the UserError or Failure with which its sentence has failed already. `unit`: what a sentence is called.
    `tags`: those of all sentences, or of each (s2s/tasks/tags.py)."""

    sources: list
    companions: list[Ids] | None
    constraints: list[list[Ids]] | None = None
    unit: str = "line"
    tags: Tags | list[Tags] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading:
    """How an input is read.

    Attributes:
        size: Sentences of a window at most; of text also so many kilobytes, and a line.
        wait: Seconds without another line after which a window is complete.
        max_line_bytes: No line may be longer.
        skip_broken: What cannot be read is Skipped in its place; else it is an error.
    """

    size: int
    wait: float = 0.0
    max_line_bytes: int = MAX_LINE_BYTES
    skip_broken: bool = False


def named(path: str | None) -> str | Path:
    """What a user's path stands for, with `-`, and without one, for standard input."""
    return STANDARD_INPUT if path in (None, "-") else path


def line_windows(path: str | Path, reading: Reading) -> Iterator[list[str | Skipped]]:
    """Lines of a file, plain or compressed, or a stream.

    Raises:
        UserError: a line that is too long or not UTF-8, with its number; a folder; a damaged compressed file.
        OSError: no such file.
    """
    with closing(LineReader(path, reading.max_line_bytes, reading.skip_broken)) as reader:
        while lines := reader.arrived(reading.size, reading.size << 10, reading.wait):
            first = reader.line - len(lines) + 1
            whole = not reading.skip_broken or max(map(len, lines)) <= reading.max_line_bytes
            try:
                window = decode_lines(b"".join(lines), str(path), first) if whole else None
            except UserError:
                if not reading.skip_broken:
                    raise
                window = None
            yield window or [_line(line, path, number, reading) for number, line in enumerate(lines, first)]


def _line(line: bytes, path: str | Path, number: int, reading: Reading) -> str | Skipped:
    try:
        if len(line.removesuffix(b"\n")) > reading.max_line_bytes:
            raise UserError(f"{path}:{number}: {too_long(reading.max_line_bytes)}")
        return decode_lines(line, str(path), number)[0]
    except UserError as error:
        return Skipped(str(error))


def count_lines(path: str | Path, reading: Reading) -> int:
    """Lines of a file, plain or compressed. Raises as `line_windows`, except for UTF-8."""
    with closing(LineReader(path, reading.max_line_bytes, reading.skip_broken)) as reader:
        return reader.count()


# Sources of text and of recordings


def _text_sources(task, path: str | Path, reading: Reading) -> Iterator[list]:
    first = 1
    for lines in line_windows(path, reading):
        sources = iter(task.encode_each([line for line in lines if isinstance(line, str)]))
        found = [next(sources) if isinstance(line, str) else line for line in lines]
        if any(isinstance(one, UserError) for one in found):  # a line that the task cannot make a source of
            found = [_told(one, f"{path}:{number}", reading) for number, one in enumerate(found, first)]
        yield found
        first += len(lines)


def _told(source, where: str, reading: Reading):
    """A source; one that could not be made is Skipped, or an error. Raises UserError."""
    if not isinstance(source, UserError) or isinstance(source, Skipped):
        return source
    error = f"{where}: {source}"
    if not reading.skip_broken:
        raise UserError(error)
    return Skipped(error)


def _recordings(path: str, reading: Reading) -> list:
    """The recordings of a manifest (.tsv, .jsonl or a Kaldi folder), in which texts may be missing, or of a list of
    files, a line each (.txt, .list), as entries that may be broken; or one recording, as its path.

    Raises:
        UserError: as `line_windows`; a manifest of which nothing can be read.
    """
    if path.endswith(LISTS):
        windows = line_windows(path, replace(reading, size=LINES))
        return _listed([line for window in windows for line in window], path, 1)
    if not Path(path).is_dir() and not path.endswith(MANIFESTS):
        return [path]
    from s2s.data.manifest import read_manifest  # who reads text does not need it

    manifest = read_manifest(path, None, needs_text=False)
    # A broken entry has its place among the others; those of other tables of a Kaldi folder come last.
    main = Path(path, "text") if Path(path).is_dir() else Path(path)

    def place(item) -> tuple[bool, int]:
        file, _, line = item.where.rpartition(":")
        return Path(file) != main, int(line)

    return sorted([*manifest.entries, *manifest.broken], key=place)


def _listed(lines: list[str | Skipped], path: str | Path, first: int) -> list:
    """The entries of lines of a list of files."""
    from s2s.data.manifest import Broken, Entry

    items = []
    for number, line in enumerate(lines, first):
        where = f"{path}:{number}"
        if isinstance(line, Skipped):
            items.append(Broken(where, "", "malformed", str(line).removeprefix(f"{where}: ")))
        elif is_blank(line):
            items.append(Broken(where, "", "malformed", "a blank line; the name of a file is needed"))
        else:
            items.append(Entry(where, "", Path(line), ""))
    return items


def _recording_sources(task, path: str | Path, items: list | None, reading: Reading) -> Iterator[list]:
    """Sources of recordings. `items`: what `_recordings` has, all of which is looked at before the first window; None:
    `path` is a stream, a list of files. Raises UserError that names all that is known to be broken by then."""
    if items is None:
        first = 1
        for lines in line_windows(path, reading):
            yield _encoded(task, _listed(lines, path, first), reading)
            first += len(lines)
        return
    if items == [path]:
        found = task.encode_each(items)
        if isinstance(found[0], Exception):
            if not reading.skip_broken:
                raise found[0]
            found = [Skipped(str(found[0]))]
        yield found
        return
    if not reading.skip_broken:
        _check_all(task, items)
    for start in range(0, len(items), reading.size):
        yield _encoded(task, items[start : start + reading.size], reading)


def _check_all(task, items: list) -> None:
    """Read all recordings to their ends. Raises UserError."""
    from s2s.data.manifest import Broken
    from s2s.data.processes import progress

    broken = []
    with progress("check", len(items), " recordings") as bar:
        for start in range(0, len(items), CHECKED):
            some = items[start : start + CHECKED]
            checked = iter(task.check_entries([item for item in some if not isinstance(item, Broken)]))
            found = [item if isinstance(item, Broken) else next(checked) for item in some]
            broken += [one for one in found if isinstance(one, Broken)]
            bar(len(some))
    _complain(broken, len(items))


def _encoded(task, items: list, reading: Reading) -> list:
    """Sources of some entries. Raises UserError."""
    from s2s.data.manifest import Broken

    sources = iter(task.encode_each([item for item in items if not isinstance(item, Broken)]))
    found = [item if isinstance(item, Broken) else next(sources) for item in items]
    for i, one in enumerate(found):
        if isinstance(one, Exception):
            found[i] = Broken(items[i].where, items[i].id, one.kind, str(one))
    if not reading.skip_broken:
        _complain([one for one in found if isinstance(one, Broken)], len(items))
    return [Skipped(f"{one.where}: {one.why}") if isinstance(one, Broken) else one for one in found]


def _complain(broken: list, of: int) -> None:
    from s2s.data.manifest import complaint

    if broken:
        raise UserError(f"{complaint(broken, of)}\n(skip_broken=true leaves an empty line in place of each)")


# What belongs to sentences


class Companion:
    """A file or a stream with a line for each sentence.

    Args:
        key: `prefix`, `target`, `constraints`: phrases that are separated by tabs, or `line_tags`: NAME=VALUE.
        path: The file; `-` is standard input.
        task: It encodes them.
        reading: How its lines are read.
    """

    def __init__(self, key: str, path: str, task, reading: Reading):
        self.key, self.path = key, named(path)
        self.task = task
        self.encode = {"prefix": task.encode_prefixes, "target": task.encode_target,
                       "constraints": task.encode_phrases}.get(key)  # fmt: skip
        self.reading = replace(reading, skip_broken=False)
        self.counts = self.path is not STANDARD_INPUT and not is_stream(self.path)
        self.reader = LineReader(self.path, reading.max_line_bytes)

    def check(self, one: str, total: int | None) -> None:
        """Raise UserError if it is known beforehand that the input `one` has not as many sentences."""
        if self.counts and total is not None and (count := count_lines(self.path, self.reading)) != total:
            raise self._unequal(one, total, count)

    def take(self, one: str, count: int) -> list:
        """What belongs to the next `count` sentences of the input `one`: ids, the ids of phrases, or the line itself.

        Raises:
            UserError: as `line_windows`; there are not so many; a prefix or constraint that has a symbol which the
                vocabulary lacks.
        """
        lines, first = self.reader.take(count), self.reader.line + 1
        first -= len(lines)
        if len(lines) < count:
            raise self._unequal(one, None, self.reader.line)
        rows = [[line] for line in decode_lines(b"".join(lines), str(self.path), first)]
        if self.key == "line_tags":
            return [line for (line,) in rows]
        if self.key == "constraints":
            rows = [[phrase for phrase in line.split("\t") if not is_blank(phrase)] for (line,) in rows]
        texts = [text for row in rows for text in row]
        ids = _encode(self.encode, texts, str(self.path))
        if self.key != "target":
            check_known(ids, texts, (f"{self.path}, line {n}" for n, row in enumerate(rows, first) for _ in row))
        found = iter(ids)
        rows = [list(islice(found, len(row))) for row in rows]
        return rows if self.key == "constraints" else [row[0] for row in rows]

    def tags(self, line: str, number: int, others: Tags) -> Tags:
        """Those of a line, by its number, over others. Raises UserError."""
        try:
            found = tags.parse(line.split())
            tags.check_read(self.task.tags, found)
            tags.numbers(self.task.tags, {**others, **found})
            return {**others, **found}
        except UserError as error:
            raise UserError(f"{self.path}:{number}: {error}") from error

    def end(self, one: str, total: int) -> None:
        """Close it. Raises UserError if it has more lines than there are sentences."""
        if self.reader.take(1):
            raise self._unequal(one, total, self.reader.count() if self.counts else None)
        self.reader.close()

    def _unequal(self, one: str, total: int | None, count: int | None) -> UserError:
        counts = ["more" if number is None else f"{number} lines" for number in (total, count)]
        return UserError(f"{one} has {counts[0]} and {self.path} has {counts[1]}; "
                         "line N of one belongs to line N of the other")  # fmt: skip


def _encode(encode: Encode, texts: list[str], where: str) -> list[Ids]:
    try:
        return encode(texts)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def check_known(ids: list[Ids], texts: list[str], places: Iterable[str]) -> None:
    """Raise UserError for the first text with a symbol that the vocabulary lacks; `places`: where each is."""
    for one, text, place in zip(ids, texts, places, strict=False):
        if UNK in one:
            raise UserError(
                f"{place}: {text!r} has a symbol that the target vocabulary lacks, so it cannot be produced"
            )


def read_phrases(key: str, path: str | None, encode: Encode, needed: bool = False) -> list[Ids]:
    """Token ids of the lines of a file that a key names; none without a file. Empty lines count nothing.

    Args:
        key: Of the file.
        path: The file; `-` is standard input.
        encode: Target lines to ids.
        needed: There must be a line, and every symbol must be in the vocabulary.

    Raises:
        UserError: as `line_windows`; no such file; what is needed is not there.
    """
    if path is None:
        return []
    if path != "-" and not Path(path).exists():
        raise UserError(f"{key}={path}: no such file")
    lines = [line for window in line_windows(named(path), Reading(LINES)) for line in window]
    phrases = _encode(encode, lines, f"{key}={path}")
    if needed:
        check_known(phrases, lines, (f"{key}={path}, line {number}" for number in range(1, len(lines) + 1)))
        if not any(phrases):
            raise UserError(f"{key}={path}: has no line that is not empty")
    return [ids for ids in phrases if ids]


# Windows


def from_input(task, path: str | None, companions: list[Companion], reading: Reading,
               count: bool = False, given: Tags = NO_TAGS) -> tuple[Iterator[Window], int | None]:  # fmt: skip
    """Sentences of a file or a stream.

    Args:
        task: It says whether they are lines or recordings, and encodes them.
        path: The input: lines, or recordings as `_recordings` reads them. A stream of recordings is a list of files;
            None and `-` are standard input.
        companions: Files of lines that belong to them.
        reading: How.
        count: Whether to count the lines of a file for their own sake.
        given: Tags of all sentences; those of a line go before.

    Returns:
        Windows, and the number of sentences, if it is known beforehand.

    Raises:
        UserError: as `line_windows`; another number of sentences and lines of companions; broken recordings.
    """
    source = named(path)
    streams = source is STANDARD_INPUT or is_stream(source)
    total = None
    if task.reads == "lines":
        if not streams and (count or any(one.counts for one in companions)):
            total = count_lines(source, reading)
        sources = _text_sources(task, source, reading)
    else:
        items = None if streams else _recordings(source, reading)
        total = None if items is None else len(items)
        sources = _recording_sources(task, source, items, reading)
    parts = ((some, None, {}) for some in sources)
    return _windows(str(source), parts, companions, total, task.reads[:-1], given), total


def from_split(task, split: Split, companions: list[Companion], score: bool, size: int,
               given: Tags = NO_TAGS) -> tuple[Iterator[Window], int]:  # fmt: skip
    """Sentences of a split.

    Args:
        task: It makes sources of examples.
        split: The split.
        companions: Files of lines that belong to them.
        score: Without a file of targets, the split's own are the companions.
        size: Sentences a window.
        given: Tags of all sentences, before those that the store knows.

    Returns:
        Windows, and the number of sentences.

    Raises:
        UserError: as `from_input`.
    """

    def parts() -> Iterator[tuple[list, list[Ids] | None, list[Tags]]]:
        for start in range(0, len(split), size):
            numbers, targets = np.arange(start, min(start + size, len(split))), None
            if score and not companions:
                flat, lengths = split.gather("target.tokens", numbers)
                rows = np.split(flat, np.cumsum(lengths[:-1]))
                targets = [task.target_transform.apply(row).tolist() for row in rows]
            yield task.inputs(split, numbers), targets, tags.of_split(split, numbers) if task.tags else {}

    return _windows(f"split '{split.name}'", parts(), companions, len(split), "sentence", given), len(split)


def _windows(one: str, parts: Iterator, companions: list[Companion], total: int | None, unit: str,
             given: Tags) -> Iterator[Window]:  # fmt: skip
    """Windows of (sources, targets or None, tags of each or of all), with what belongs to them."""
    for companion in companions:
        companion.check(one, total)
    read = 0
    for sources, targets, known in parts:
        window = Window(sources, targets, unit=unit, tags=_over(known, given))
        for companion in companions:
            found = companion.take(one, len(sources))
            if companion.key == "constraints":
                window.constraints = found
            elif companion.key == "line_tags":
                lines = enumerate(found)
                window.tags = [companion.tags(line, read + 1 + i, _of(window.tags, i)) for i, line in lines]
            else:
                window.companions = found
        read += len(sources)
        yield window
    for companion in companions:
        companion.end(one, read)


def _over(known: Tags | list[Tags], given: Tags) -> Tags | list[Tags]:
    """Tags of all sentences or of each, under those that are given."""
    return {**known, **given} if isinstance(known, Mapping) else [{**one, **given} for one in known]


def _of(known: Tags | list[Tags], place: int) -> Tags:
    return known if isinstance(known, Mapping) else known[place]
