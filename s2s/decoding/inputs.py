"""The inputs of decoding, one window at a time: lines or recordings of a file or a stream, or a split of a store, with
their companions (`s2s.decoding.companions`).

A file is checked before decoding starts: its number of lines, and which recordings are broken. A stream (a pipe,
standard input) is read once, as it comes, so it is checked while it is decoded.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from s2s.config.streams import is_stream
from s2s.data.lines import STANDARD_INPUT
from s2s.data.split import Split
from s2s.decoding.companions import Companion
from s2s.decoding.hypothesis import Skipped
from s2s.decoding.reading import LINES, Reading, count_lines, line_windows, named
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.tags import Tags
from s2s.text.tokenizer import is_blank

CHECKED = 64  # recordings checked at once

Ids = list[int]
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
        number: Number of the window in the input, from 0.
        first: Number of its first sentence in the input, from 0; None: the windows before it say it.
        mark: Returns a checksum of its raw input.
        companion_lines: Returns the raw text of each companion; None: there is none.
    """

    sources: list
    companions: list[Ids] | None
    constraints: list[list[Ids]] | None = None
    unit: str = "line"
    tags: Tags | list[Tags] = field(default_factory=dict)
    lines: Callable[[], list] | None = None
    number: int = 0
    first: int | None = None
    mark: Callable[[], int] = int
    companion_lines: Callable[[], list[str]] | None = None


@dataclass
class Part:
    """A window of an input before it is encoded.

    Attributes:
        count: Number of its sentences.
        cost: How long it takes to decode, in any unit.
        make: Returns its sources, targets (or None), tags and lines, as in Window.
        raw: Returns its content as text.
    """

    count: int
    cost: int
    make: Callable[[], tuple[list, list[Ids] | None, Tags | list[Tags], Callable[[], list] | None]]
    raw: Callable[[], list] = list


@dataclass
class Input:
    """All sentences.

    Attributes:
        name: Its name in messages.
        unit: What a sentence is called in messages.
        total: Number of sentences; None if it is not known beforehand.
        parts: Returns the parts in order. For a stream it can be called once.
    """

    name: str
    unit: str
    total: int | None
    parts: Callable[[], Iterator[Part]]


# Whether to decode a window: its number, and what returns a checksum of its raw input.
Wanted = Callable[[int, Callable[[], int]], bool]

# Sources of text and of recordings


def _text_parts(task, path: str | Path, reading: Reading) -> Iterator[Part]:
    """Windows of lines."""
    first = 1
    for lines in line_windows(path, reading):
        make = partial(_text_sources, task, lines, first, path, reading)
        yield Part(len(lines), sum(map(_size, lines)), make, partial(list, lines))
        first += len(lines)


def _size(line: str | Skipped) -> int:
    return len(line) + 1 if isinstance(line, str) else 1


def _text_sources(task, lines: list[str | Skipped], first: int, path: str | Path, reading: Reading) -> tuple:
    """What `Part.make` returns, for lines of which `first` is the number of the first one, from 1."""
    sources = iter(task.encode_each([line for line in lines if isinstance(line, str)]))
    encoded = [next(sources) if isinstance(line, str) else line for line in lines]
    if any(isinstance(source, UserError) for source in encoded):  # a line that the task cannot make a source of
        encoded = [_told(source, f"{path}:{number}", reading) for number, source in enumerate(encoded, first)]
    return encoded, None, {}, partial(list, lines)


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


def _recording_parts(task, path: str | Path, items: list | None, reading: Reading) -> Iterator[Part]:
    """Windows of recordings.

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
            yield _part_of(task, _listed(lines, path, first), reading)
            first += len(lines)
        return
    if items == [path]:
        yield Part(1, 1, partial(_recording, task, path, reading), partial(list, items))
        return
    if not reading.skip_broken:
        _check_all(task, items[slice(reading.checked[0], None, reading.checked[1])])
    for start in range(0, len(items), reading.size):
        yield _part_of(task, items[start : start + reading.size], reading)


def _part_of(task, items: list, reading: Reading) -> Part:
    return Part(len(items), len(items), lambda: (_encoded(task, items, reading), None, {}, None), partial(list, items))


def _recording(task, path: str | Path, reading: Reading) -> tuple:
    """What `Part.make` returns, for one recording."""
    sources = task.encode_each([path])
    if isinstance(sources[0], Exception):
        if not reading.skip_broken:
            raise sources[0]
        sources = [Skipped(str(sources[0]))]
    return sources, None, {}, None


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


# Inputs and their windows


def from_input(task, path: str | None, reading: Reading, count: bool = False) -> Input:
    """The sentences of a file or a stream.

    Args:
        task: It encodes sentences; `task.reads` says whether they are lines or recordings.
        path: The input: lines, or recordings as `_recordings` reads them. A stream of recordings is a list of files.
            None and `-` are standard input.
        reading: How the input is read.
        count: Whether to count the lines of a file.

    Raises:
        UserError: as `line_windows`. The parts raise it too, and if some recordings are broken.
    """
    source, total = named(path), None
    streams = source is STANDARD_INPUT or is_stream(source)
    if task.reads == "lines":
        if not streams and count:
            total = count_lines(source, reading)
        return Input(str(source), "line", total, partial(_text_parts, task, source, reading))
    items = None if streams else _recordings(source, reading)
    total = None if items is None else len(items)
    return Input(str(source), task.reads[:-1], total, partial(_recording_parts, task, source, items, reading))


def from_split(task, split: Split, own_targets: bool, size: int) -> Input:
    """The sentences of a split of a store.

    Args:
        task: It makes sources from examples.
        split: The split.
        own_targets: Whether to give each sentence its target in the split, to score it.
        size: Sentences per window.
    """

    def make(numbers: np.ndarray) -> tuple:
        targets = None
        if own_targets:
            flat, lengths = split.gather("target.tokens", numbers)
            rows = np.split(flat, np.cumsum(lengths[:-1]))
            targets = [task.target_transform.apply(row).tolist() for row in rows]
        known = tags.of_split(split, numbers) if task.tags else {}
        return task.inputs(split, numbers), targets, known, partial(task.source_names, split, numbers)

    def parts() -> Iterator[Part]:
        for start in range(0, len(split), size):
            numbers = np.arange(start, min(start + size, len(split)))
            yield Part(len(numbers), len(numbers), partial(make, numbers))

    return Input(f"split '{split.name}'", "sentence", len(split), parts)


def windows(source: Input, companions: list[Companion], given: Tags = NO_TAGS,
            wanted: Wanted | None = None) -> Iterator[Window]:  # fmt: skip
    """The windows of an input, with their companions.

    Args:
        source: The input.
        companions: Companion files.
        given: Tags of all sentences. They override those of a store, and `line_tags` overrides them.
        wanted: Whether to decode a window; the others are read and left out. None: all.

    Raises:
        UserError: as `line_windows`; a companion has another number of lines; some recordings are broken.
    """
    for companion in companions:
        companion.check(source.name, source.total)
    read = 0
    for number, part in enumerate(source.parts()):
        beside = [companion.take(source.name, part.count) for companion in companions]
        mark = partial(_mark, part, beside)
        if wanted is None or wanted(number, mark):
            sources, targets, known, lines = part.make()
            window = Window(sources, targets, None, source.unit, _over(known, given), lines, number, read, mark)
            for companion, raw in zip(companions, beside, strict=True):
                entries = companion.entries(raw, read + 1)
                if companion.key == "constraints":
                    window.constraints = entries
                elif companion.key == "line_tags":
                    window.tags = [companion.tags(line, read + 1 + i, _of(window.tags, i))
                                   for i, line in enumerate(entries)]  # fmt: skip
                else:
                    window.companions, window.companion_lines = entries, partial(companion.texts, raw, read + 1)
            yield window
        read += part.count
    for companion in companions:
        companion.end(source.name, read)


def _mark(part: Part, beside: list[list[bytes]]) -> int:
    """A checksum of the raw input of a window and of its companions."""
    raw = "\n".join(map(str, part.raw())).encode(errors="surrogatepass")
    return zlib.crc32(b"\0".join([raw, *(b"".join(lines) for lines in beside)]))


def _over(known: Tags | list[Tags], given: Tags) -> Tags | list[Tags]:
    """Tags of all sentences or of each, overridden by the given ones."""
    return {**known, **given} if isinstance(known, Mapping) else [{**own, **given} for own in known]


def _of(known: Tags | list[Tags], place: int) -> Tags:
    return known if isinstance(known, Mapping) else known[place]
