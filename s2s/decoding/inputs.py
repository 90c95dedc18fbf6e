"""What is to be decoded, a window at a time: lines of files or of standard input, or a split of a store."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from s2s.data.corpus import LineReader, decode_lines
from s2s.data.store import Split
from s2s.errors import UserError
from s2s.text.vocabulary import UNK

STANDARD_INPUT = "standard input"
PARALLEL = "line N of one belongs to line N of the other"

Ids = list[int]
Encode = Callable[[list[str]], list[Ids]]


@dataclass
class Window:
    """Some consecutive sentences, as token ids without EOS; `companions` are target prefixes, or targets to score,
    `constraints` the phrases that the hypotheses of each sentence must hold."""

    sources: list[Ids]
    companions: list[Ids] | None
    constraints: list[list[Ids]] | None = None


def line_windows(path: str | None, size: int) -> Iterator[list[str]]:
    """Lines of a file, plain or compressed, or of standard input (`path` None), up to `size` at a time.

    Raises:
        UserError: invalid UTF-8, with the line's number; a folder; a damaged compressed file.
        OSError: no such file.
    """
    number = 1
    if path is None:
        name, take, close = STANDARD_INPUT, lambda: list(islice(sys.stdin.buffer, size)), lambda: None
    else:
        reader = _open(path)
        name, take, close = path, lambda: reader.take(size), reader.close
    try:
        while lines := take():
            yield decode_lines(b"".join(lines), name, number)
            number += len(lines)
    finally:
        close()


def count_lines(path: str) -> int:
    """Lines of a file, plain or compressed; raises as `line_windows`, except for UTF-8."""
    with closing(_open(path)) as reader:
        return reader.count()


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


def _open(path: str) -> LineReader:
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; a file of lines is needed")
    return LineReader(Path(path))


def from_lines(
    source: str | None, companion: str | None, size: int, encode: Encode, encode_target: Encode
) -> Iterator[Window]:
    """Sentences of a file or of standard input.

    Args:
        source: A file; None is standard input.
        companion: A file with a target (prefix) for each line, or None.
        size: Lines a window.
        encode: Source lines to ids.
        encode_target: Target lines to ids.

    Raises:
        UserError: as `line_windows`; files of different line counts (seen before the first window, but for standard
            input).
    """
    if source and companion:
        _check_counts(source, count_lines(source), companion, count_lines(companion))
    read = 0
    others = iter(()) if companion is None else _one_by_one(line_windows(companion, size))
    for lines in line_windows(source, size):
        read += len(lines)
        companions = None
        if companion:
            taken = list(islice(others, len(lines)))
            if len(taken) < len(lines):
                count = read - len(lines) + len(taken)
                raise UserError(f"{companion} has {count} lines and {STANDARD_INPUT} has more; {PARALLEL}")
            companions = encode_target(taken)
        yield Window(encode(lines), companions)
    if companion:
        _check_counts(source or STANDARD_INPUT, read, companion, read + sum(1 for _ in others))


def from_split(
    split: Split,
    companion: str | None,
    score: bool,
    size: int,
    encode_target: Encode,
    transform: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Window]:
    """Sentences of a split.

    Args:
        split: The split.
        companion: A file with a target (prefix) for each sentence, or None.
        score: Without a file, the split's own targets are the companions.
        size: Sentences a window.
        encode_target: Target lines to ids, in the order in which the model writes them.
        transform: Puts the split's own target ids into that order.

    Raises:
        UserError: as `from_lines`.
    """
    if companion:
        _check_counts(f"split '{split.name}'", len(split), companion, count_lines(companion))
        others = line_windows(companion, size)

    def rows(side: str) -> list[np.ndarray]:
        flat, lengths = split.gather(side, numbers)
        return np.split(flat, np.cumsum(lengths[:-1]))

    for start in range(0, len(split), size):
        numbers = np.arange(start, min(start + size, len(split)))
        companions = None
        if companion:
            companions = encode_target(next(others))
        elif score:
            companions = [transform(row).tolist() for row in rows("target")]
        yield Window([row.tolist() for row in rows("source")], companions)


def _one_by_one(windows: Iterator[list[str]]) -> Iterator[str]:
    for window in windows:
        yield from window


def _check_counts(one: str, count: int, other: str, others: int) -> None:
    if count != others:
        raise UserError(
            f"{one} has {count} lines and {other} has {others}; line N of one belongs to line N of the other"
        )
