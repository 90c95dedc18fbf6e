"""What is to be decoded, a window at a time: lines of files or of standard input, or a split of a store."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from s2s.data.lines import STANDARD_INPUT, LineReader, decode_lines
from s2s.data.store import Split
from s2s.errors import UserError
from s2s.text.vocabulary import UNK

PARALLEL = "line N of one belongs to line N of the other"

Ids = list[int]
Encode = Callable[[list], list]
MANIFESTS, LISTS = (".tsv", ".jsonl"), (".txt", ".list")


@dataclass
class Window:
    """Some consecutive sentences, as a task makes them (of text: token ids without EOS); `companions` are target
    prefixes, or targets to score, `constraints` the phrases that the hypotheses of each sentence must hold. A source
    may be the UserError or Failure with which its sentence has failed already. `unit`: what a sentence is called."""

    sources: list
    companions: list[Ids] | None
    constraints: list[list[Ids]] | None = None
    unit: str = "line"


def line_windows(path: str | None, size: int) -> Iterator[list[str]]:
    """Lines of a file, plain or compressed, or of standard input (`path` None), up to `size` at a time.

    Raises:
        UserError: invalid UTF-8, with the line's number; a folder; a damaged compressed file.
        OSError: no such file.
    """
    number = 1
    with closing(LineReader(STANDARD_INPUT if path is None else path)) as reader:
        while lines := reader.take(size):
            yield decode_lines(b"".join(lines), str(reader.path), number)
            number += len(lines)


def count_lines(path: str) -> int:
    """Lines of a file, plain or compressed; raises as `line_windows`, except for UTF-8."""
    with closing(LineReader(path)) as reader:
        return reader.count()


def recording_windows(path: str | None, size: int) -> Iterator[list]:
    """Recordings, up to `size` at a time, as `encode` of a task of speech takes them.

    Args:
        path: A manifest (.tsv, .jsonl or a Kaldi folder), in which texts may be missing; a list of files, a line each
            (.txt, .list); or a recording. None: such a list from standard input.

    Raises:
        UserError: as `line_windows`; a manifest with entries that cannot be read, all of which are named.
    """
    if path is None or path.endswith(LISTS):
        yield from line_windows(path, size)
        return
    items: list = [path]
    if Path(path).is_dir() or path.endswith(MANIFESTS):
        from s2s.data.manifest import complaint, read_manifest  # who reads text does not need it

        manifest = read_manifest(path, None, needs_text=False)
        if manifest.broken:
            raise UserError(f"{path}: {complaint(manifest.broken, manifest.read)}")
        items = manifest.entries
    for start in range(0, len(items), size):
        yield items[start : start + size]


def count_recordings(path: str) -> int:
    """How many `recording_windows` has; raises as it does."""
    return sum(len(window) for window in recording_windows(path, 4096))


READERS = {"lines": (line_windows, count_lines), "recordings": (recording_windows, count_recordings)}  # by Task.reads


def read_phrases(key: str, path: str | None, encode: Encode, needed: bool = False) -> list[Ids]:
    """Token ids of the lines of a file that a key names; none without a file. Empty lines count nothing.

    Args:
        key: Of the file.
        path: The file.
        encode: Target lines to ids.
        needed: There must be a line, and every symbol must be in the vocabulary.

    Raises:
        UserError: as `line_windows`; no such file; what is needed is not there.
    """
    if path is None:
        return []
    if not Path(path).exists():
        raise UserError(f"{key}={path}: no such file")
    lines = [line for window in line_windows(path, 4096) for line in window]
    phrases = encode(lines)
    if needed:
        _check_known(phrases, lines, (f"{key}={path}, line {number}" for number in range(1, len(lines) + 1)))
        if not any(phrases):
            raise UserError(f"{key}={path}: has no line that is not empty")
    return [ids for ids in phrases if ids]


def with_constraints(windows: Iterable[Window], path: str, total: int | None, encode: Encode) -> Iterator[Window]:
    """Windows with the phrases that each sentence's hypotheses must hold.

    Args:
        windows: Of sentences.
        path: File with a line for each sentence: its phrases, separated by tabs, perhaps none.
        total: Number of sentences, if it is known.
        encode: Target phrases to ids.

    Raises:
        UserError: as `line_windows`; another number of lines (seen before the first window where `total` is known); a
            phrase with a symbol that the vocabulary lacks.
    """
    count = count_lines(path)
    if total is not None:
        _check_counts("the input", total, path, count)
    lines = _one_by_one(line_windows(path, 4096))
    read = 0
    for window in windows:
        rows = [[p for p in line.split("\t") if p.strip()] for line in islice(lines, len(window.sources))]
        if len(rows) < len(window.sources):
            raise UserError(f"{path} has {count} lines and the input has more; {PARALLEL}")
        flat = [phrase for row in rows for phrase in row]
        ids = encode(flat) if flat else []
        _check_known(ids, flat, (f"{path}, line {read + i}" for i, row in enumerate(rows, 1) for _ in row))
        taken = iter(ids)
        read += len(rows)
        yield replace(window, constraints=[list(filter(len, islice(taken, len(row)))) for row in rows])
    _check_counts("the input", read, path, count)


def _check_known(ids: list[Ids], texts: list[str], places: Iterable[str]) -> None:
    for one, text, place in zip(ids, texts, places, strict=True):
        if UNK in one:
            raise UserError(
                f"{place}: {text!r} has a symbol that the target vocabulary lacks, so it cannot be produced"
            )


def from_input(task, source: str | None, companion: str | None, size: int) -> Iterator[Window]:
    """Sentences of a file or of standard input.

    Args:
        task: It says whether they are lines or recordings, and encodes them.
        source: A file; None is standard input.
        companion: A file with a target (prefix) for each line, or None.
        size: Sentences a window.

    Raises:
        UserError: as `line_windows` and `recording_windows`; files of different line counts (seen before the first
            window, but for standard input).
    """
    windows, count = READERS[task.reads]
    if source and companion:
        _check_counts(source, count(source), companion, count_lines(companion))
    read = 0
    others = iter(()) if companion is None else _one_by_one(line_windows(companion, size))
    for lines in windows(source, size):
        read += len(lines)
        companions = None
        if companion:
            taken = list(islice(others, len(lines)))
            if len(taken) < len(lines):
                count = read - len(lines) + len(taken)
                raise UserError(f"{companion} has {count} lines and {STANDARD_INPUT} has more; {PARALLEL}")
            companions = task.encode_target(taken)
        yield Window(task.encode(lines), companions, unit=task.reads[:-1])
    if companion:
        _check_counts(source or STANDARD_INPUT, read, companion, read + sum(1 for _ in others))


def from_split(task, split: Split, companion: str | None, score: bool, size: int) -> Iterator[Window]:
    """Sentences of a split.

    Args:
        task: It makes sources of examples.
        split: The split.
        companion: A file with a target (prefix) for each sentence, or None.
        score: Without a file, the split's own targets are the companions.
        size: Sentences a window.

    Raises:
        UserError: as `from_input`.
    """
    if companion:
        _check_counts(f"split '{split.name}'", len(split), companion, count_lines(companion))
        others = line_windows(companion, size)
    for start in range(0, len(split), size):
        numbers = np.arange(start, min(start + size, len(split)))
        companions = None
        if companion:
            companions = task.encode_target(next(others))
        elif score:
            flat, lengths = split.gather("target", numbers)
            rows = np.split(flat, np.cumsum(lengths[:-1]))
            companions = [task.target_transform.apply(row).tolist() for row in rows]
        yield Window(task.inputs(split, numbers), companions, unit="sentence")


def _one_by_one(windows: Iterator[list[str]]) -> Iterator[str]:
    for window in windows:
        yield from window


def _check_counts(one: str, count: int, other: str, others: int) -> None:
    if count != others:
        raise UserError(
            f"{one} has {count} lines and {other} has {others}; line N of one belongs to line N of the other"
        )
