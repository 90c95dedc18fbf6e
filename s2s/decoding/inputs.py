"""The inputs of decoding, one window at a time: lines or recordings of a file or a stream, or a split of a store; and
companion files, with a line for each sentence.

A file is checked before decoding starts: its number of lines, and which recordings are broken. A stream (a pipe,
standard input) is read once, as it comes, so it is checked while it is decoded.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from s2s.config.streams import is_stream
from s2s.data.directions import parse_tags
from s2s.data.lines import MAX_LINE_BYTES, STANDARD_INPUT, LineReader, decode_lines, too_long
from s2s.data.split import Split
from s2s.decoding.hypothesis import Skipped
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.tags import Tags
from s2s.text.tokenizer import is_blank
from s2s.text.vocabulary import UNK

LINES = 4096  # lines read at once where no results are waited for
CHECKED = 64  # recordings checked at once

Ids = list[int]
Encode = Callable[[list], list]
NO_TAGS: Tags = MappingProxyType({})
MANIFESTS, LISTS = (".tsv", ".jsonl"), (".txt", ".list")


@dataclass
class Window:
    """Some consecutive sentences.

    Attributes:
        sources: As the task encodes them (text: token ids without EOS); or the UserError or Failure of a sentence that
            has failed already.
        companions: Target prefixes, or targets to score; None: there are none.
        constraints: Phrases that the hypotheses of each sentence must contain.
        unit: What a sentence is called in messages.
        lines: Returns the raw text of each source; None: there is none.
        tags: Tags of all sentences, or of each (s2s/tasks/tags.py).
    """

    sources: list
    companions: list[Ids] | None
    constraints: list[list[Ids]] | None = None
    unit: str = "line"
    tags: Tags | list[Tags] = field(default_factory=dict)
    lines: Callable[[], list] | None = None


@dataclass(frozen=True)
class Reading:
    """How an input is read.

    Attributes:
        size: Maximum number of sentences in a window. A window of text also ends after this many kilobytes.
        wait: A window ends after this many seconds without another line.
        max_line_bytes: Maximum length of a line, in bytes.
        skip_broken: Whether a line or recording that cannot be read is replaced by Skipped. Otherwise it is an error.
    """

    size: int
    wait: float = 0.0
    max_line_bytes: int = MAX_LINE_BYTES
    skip_broken: bool = False


def named(path: str | None) -> str | Path:
    """The path, or STANDARD_INPUT for `-` and None."""
    return STANDARD_INPUT if path in (None, "-") else path


def line_windows(path: str | Path, reading: Reading) -> Iterator[list[str | Skipped]]:
    """Windows of lines of a file, plain or compressed, or of a stream.

    Raises:
        UserError: a line is too long or not UTF-8 (the message has its number); the path is a folder; a compressed
            file is damaged.
        OSError: no such file.
    """
    with closing(LineReader(path, reading.max_line_bytes, reading.skip_broken)) as reader:
        while lines := reader.arrived(reading.size, reading.size << 10, reading.wait):
            first = reader.line - len(lines) + 1
            decodable = not reading.skip_broken or max(map(len, lines)) <= reading.max_line_bytes
            try:
                window = decode_lines(b"".join(lines), str(path), first) if decodable else None
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
    """The number of lines of a file, plain or compressed. Raises as `line_windows`, but does not check UTF-8."""
    with closing(LineReader(path, reading.max_line_bytes, reading.skip_broken)) as reader:
        return reader.count()


# Sources of text and of recordings


def _text_sources(task, path: str | Path, reading: Reading) -> Iterator[tuple[list, list]]:
    """Windows of encoded lines, and the lines."""
    first = 1
    for lines in line_windows(path, reading):
        sources = iter(task.encode_each([line for line in lines if isinstance(line, str)]))
        found = [next(sources) if isinstance(line, str) else line for line in lines]
        if any(isinstance(one, UserError) for one in found):  # a line that the task cannot make a source of
            found = [_told(one, f"{path}:{number}", reading) for number, one in enumerate(found, first)]
        yield found, lines
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
    """The recordings that a path names.

    Args:
        path: A manifest (.tsv, .jsonl or a Kaldi folder), in which texts may be missing; a list of files, one per line
            (.txt, .list); or one recording.
        reading: How lines are read.

    Returns:
        Entries, some of which may be Broken; or a list of one path.

    Raises:
        UserError: as `line_windows`; nothing in a manifest can be read.
    """
    if path.endswith(LISTS):
        windows = line_windows(path, replace(reading, size=LINES))
        return _listed([line for window in windows for line in window], path, 1)
    if not Path(path).is_dir() and not path.endswith(MANIFESTS):
        return [path]
    from s2s.data.manifest import read_manifest  # text does not need it

    manifest = read_manifest(path, None, needs_text=False)
    # Broken entries stand among the others, in the order of lines; those of a Kaldi folder's other tables come last.
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
            items.append(Broken(where, "", "malformed", "blank line; a file name is required"))
        else:
            items.append(Entry(where, "", Path(line), ""))
    return items


def _recording_sources(task, path: str | Path, items: list | None, reading: Reading) -> Iterator[list]:
    """Windows of encoded recordings.

    Args:
        task: It encodes recordings.
        path: The input.
        items: The result of `_recordings`; all of it is checked before the first window. None: `path` is a stream with
            a list of files, which is checked window by window.
        reading: How the input is read.

    Raises:
        UserError: some recordings are broken; the message names them.
    """
    if items is None:
        first = 1
        for lines in line_windows(path, reading):
            yield _encoded(task, _listed(lines, path, first), reading)
            first += len(lines)
        return
    if items == [path]:
        sources = task.encode_each(items)
        if isinstance(sources[0], Exception):
            if not reading.skip_broken:
                raise sources[0]
            sources = [Skipped(str(sources[0]))]
        yield sources
        return
    if not reading.skip_broken:
        _check_all(task, items)
    for start in range(0, len(items), reading.size):
        yield _encoded(task, items[start : start + reading.size], reading)


def _check_all(task, items: list) -> None:
    """Check all recordings by reading them to the end. Raises UserError."""
    from s2s.data.manifest import Broken
    from s2s.data.processes import progress

    broken = []
    with progress("check", len(items), " recordings") as bar:
        for start in range(0, len(items), CHECKED):
            batch = items[start : start + CHECKED]
            checked = iter(task.check_entries([item for item in batch if not isinstance(item, Broken)]))
            results = [item if isinstance(item, Broken) else next(checked) for item in batch]
            broken += [result for result in results if isinstance(result, Broken)]
            bar(len(batch))
    _complain(broken, len(items))


def _encoded(task, items: list, reading: Reading) -> list:
    """Encode some entries; broken ones become Skipped, or raise UserError."""
    from s2s.data.manifest import Broken

    encoded = iter(task.encode_each([item for item in items if not isinstance(item, Broken)]))
    sources = [item if isinstance(item, Broken) else next(encoded) for item in items]
    for i, source in enumerate(sources):
        if isinstance(source, Exception):
            sources[i] = Broken(items[i].where, items[i].id, source.kind, str(source))
    if not reading.skip_broken:
        _complain([source for source in sources if isinstance(source, Broken)], len(items))
    return [Skipped(f"{source.where}: {source.why}") if isinstance(source, Broken) else source for source in sources]


def _complain(broken: list, of: int) -> None:
    from s2s.data.manifest import complaint

    if broken:
        raise UserError(f"{complaint(broken, of)}\n(skip_broken=true leaves an empty line in place of each)")


# Companion files


class Companion:
    """A file or a stream with a line for each sentence.

    Args:
        key: `prefix`, `target`, `constraints` (phrases separated by tabs) or `line_tags` (NAME=VALUE ...).
        path: The file; `-` is standard input.
        task: It encodes the lines.
        reading: How lines are read.
    """

    def __init__(self, key: str, path: str, task, reading: Reading):
        self.key, self.path = key, named(path)
        self.task = task
        self.encode = {"prefix": task.encode_prefixes, "target": task.encode_target,
                       "constraints": task.encode_phrases}.get(key)  # fmt: skip
        self.reading = replace(reading, skip_broken=False)
        self.counts = self.path is not STANDARD_INPUT and not is_stream(self.path)
        self.reader = LineReader(self.path, reading.max_line_bytes)

    def check(self, source: str, total: int | None) -> None:
        """Raise UserError if the file has another number of lines than `source` has sentences.

        Args:
            source: Name of the input.
            total: Its sentences; None: not known yet, and nothing is checked.
        """
        if self.counts and total is not None and (count := count_lines(self.path, self.reading)) != total:
            raise self._unequal(source, total, count)

    def take(self, source: str, count: int) -> list:
        """The entries for the next `count` sentences of `source`: token ids, lists of token ids, or lines (line_tags).

        Raises:
            UserError: as `line_windows`; there are too few lines; a prefix or constraint has a symbol that is not in
                the vocabulary.
        """
        lines, first = self.reader.take(count), self.reader.line + 1
        first -= len(lines)
        if len(lines) < count:
            raise self._unequal(source, None, self.reader.line)
        rows = [[line] for line in decode_lines(b"".join(lines), str(self.path), first)]
        if self.key == "line_tags":
            return [line for (line,) in rows]
        if self.key == "constraints":
            rows = [[phrase for phrase in line.split("\t") if not is_blank(phrase)] for (line,) in rows]
        texts = [text for row in rows for text in row]
        ids = _encode(self.encode, texts, str(self.path))
        if self.key != "target":
            check_known(ids, texts, (f"{self.path}, line {n}" for n, row in enumerate(rows, first) for _ in row))
        encoded = iter(ids)
        rows = [list(islice(encoded, len(row))) for row in rows]
        return rows if self.key == "constraints" else [row[0] for row in rows]

    def tags(self, line: str, number: int, others: Tags) -> Tags:
        """The tags of line `number`, which replace `others` of the same name. Raises UserError."""
        try:
            parsed = parse_tags(line.split())
            tags.check_read(self.task.tags, parsed)
            tags.numbers(self.task.tags, {**others, **parsed})
            return {**others, **parsed}
        except UserError as error:
            raise UserError(f"{self.path}:{number}: {error}") from error

    def end(self, source: str, total: int) -> None:
        """Close the file. Raises UserError if it has more lines than `source` has sentences."""
        if self.reader.take(1):
            raise self._unequal(source, total, self.reader.count() if self.counts else None)
        self.reader.close()

    def _unequal(self, source: str, total: int | None, count: int | None) -> UserError:
        counts = ["more" if number is None else f"{number} lines" for number in (total, count)]
        return UserError(f"{source} has {counts[0]} and {self.path} has {counts[1]}; "
                         "line N of one belongs to line N of the other")  # fmt: skip


def _encode(encode: Encode, texts: list[str], where: str) -> list[Ids]:
    try:
        return encode(texts)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def check_known(ids: list[Ids], texts: list[str], places: Iterable[str]) -> None:
    """Raise UserError for the first text with a symbol that is not in the vocabulary.

    Args:
        ids: Token ids of each text.
        texts: The texts.
        places: The place of each text, for the message.
    """
    for text_ids, text, place in zip(ids, texts, places, strict=False):
        if UNK in text_ids:
            raise UserError(
                f"{place}: {text!r} has a symbol that the target vocabulary lacks, so it cannot be produced"
            )


def read_phrases(key: str, path: str | None, encode: Encode, needed: bool = False) -> list[Ids]:
    """Token ids of the lines of a file. Empty lines are skipped.

    Args:
        key: The option that names the file, for messages.
        path: The file; `-` is standard input. None: there are no lines.
        encode: Encodes target lines.
        needed: Whether there must be at least one line, and every symbol must be in the vocabulary.

    Raises:
        UserError: as `line_windows`; there is no such file; `needed` is not met.
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
            raise UserError(f"{key}={path}: all lines are empty")
    return [ids for ids in phrases if ids]


# Windows


def from_input(task, path: str | None, companions: list[Companion], reading: Reading,
               count: bool = False, given: Tags = NO_TAGS) -> tuple[Iterator[Window], int | None]:  # fmt: skip
    """Windows of the sentences of a file or a stream.

    Args:
        task: It encodes sentences; `task.reads` says whether they are lines or recordings.
        path: The input: lines, or recordings as `_recordings` reads them. A stream of recordings is a list of files.
            None and `-` are standard input.
        companions: Companion files.
        reading: How the input is read.
        count: Whether to count the lines of a file even if no companion needs it.
        given: Tags of all sentences; `line_tags` override them.

    Returns:
        Windows, and the number of sentences, None if it is not known beforehand.

    Raises:
        UserError: as `line_windows`; a companion has another number of lines; some recordings are broken.
    """
    source = named(path)
    streams = source is STANDARD_INPUT or is_stream(source)
    total, parts = None, None
    if task.reads == "lines":
        if not streams and (count or any(companion.counts for companion in companions)):
            total = count_lines(source, reading)
        parts = ((window, None, {}, partial(list, lines))
                 for window, lines in _text_sources(task, source, reading))  # fmt: skip
    else:
        items = None if streams else _recordings(source, reading)
        total = None if items is None else len(items)
        parts = ((window, None, {}, None) for window in _recording_sources(task, source, items, reading))
    return _windows(str(source), parts, companions, total, task.reads[:-1], given), total


def from_split(task, split: Split, companions: list[Companion], score: bool, size: int,
               given: Tags = NO_TAGS) -> tuple[Iterator[Window], int]:  # fmt: skip
    """Windows of the sentences of a split of a store.

    Args:
        task: It makes sources from examples.
        split: The split.
        companions: Companion files.
        score: Whether to score targets: those of a companion file, or else of the split itself.
        size: Sentences per window.
        given: Tags of all sentences; they override the tags in the store.

    Returns:
        Windows, and the number of sentences.

    Raises:
        UserError: as `from_input`.
    """

    def parts() -> Iterator[tuple]:
        for start in range(0, len(split), size):
            numbers, targets = np.arange(start, min(start + size, len(split))), None
            if score and not companions:
                flat, lengths = split.gather("target.tokens", numbers)
                rows = np.split(flat, np.cumsum(lengths[:-1]))
                targets = [task.target_transform.apply(row).tolist() for row in rows]
            known = tags.of_split(split, numbers) if task.tags else {}
            yield task.inputs(split, numbers), targets, known, partial(task.source_names, split, numbers)

    return _windows(f"split '{split.name}'", parts(), companions, len(split), "sentence", given), len(split)


def _windows(source: str, parts: Iterator, companions: list[Companion], total: int | None, unit: str,
             given: Tags) -> Iterator[Window]:  # fmt: skip
    """Windows of parts (sources, targets or None, tags of all sentences or of each, lines), with their companions."""
    for companion in companions:
        companion.check(source, total)
    read = 0
    for sources, targets, known, lines in parts:
        window = Window(sources, targets, unit=unit, tags=_over(known, given), lines=lines)
        for companion in companions:
            entries = companion.take(source, len(sources))
            if companion.key == "constraints":
                window.constraints = entries
            elif companion.key == "line_tags":
                window.tags = [companion.tags(line, read + 1 + i, _of(window.tags, i))
                               for i, line in enumerate(entries)]  # fmt: skip
            else:
                window.companions = entries
        read += len(sources)
        yield window
    for companion in companions:
        companion.end(source, read)


def _over(known: Tags | list[Tags], given: Tags) -> Tags | list[Tags]:
    """Tags of all sentences or of each, overridden by the given ones."""
    return {**known, **given} if isinstance(known, Mapping) else [{**own, **given} for own in known]


def _of(known: Tags | list[Tags], place: int) -> Tags:
    return known if isinstance(known, Mapping) else known[place]
