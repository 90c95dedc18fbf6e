"""Companions of an input: files or streams with a line for each sentence, and files of phrases."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from s2s.config.streams import is_stream
from s2s.data.directions import parse_tags
from s2s.data.lines import STANDARD_INPUT, LineReader, decode_lines
from s2s.decoding.reading import LINES, Reading, count_lines, line_windows, named
from s2s.errors import UserError
from s2s.tasks import tags
from s2s.tasks.tags import Tags
from s2s.text.tokenizer import is_blank
from s2s.text.vocabulary import UNK

Ids = list[int]
Encode = Callable[[list], list]


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

    def take(self, source: str, count: int) -> list[bytes]:
        """The lines of the next `count` sentences of `source`. Raises UserError if there are too few, and as
        `line_windows`."""
        lines = self.reader.take(count)
        if len(lines) < count:
            raise self._unequal(source, None, self.reader.line)
        return lines

    def entries(self, lines: list[bytes], first: int) -> list:
        """The entries of lines: token ids, lists of token ids, or lines (line_tags).

        Args:
            lines: Some consecutive lines.
            first: Number of the first one, from 1.

        Raises:
            UserError: as `line_windows`; a prefix or constraint has a symbol that is not in the vocabulary.
        """
        rows = [[line] for line in self.texts(lines, first)]
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

    def texts(self, lines: list[bytes], first: int) -> list[str]:
        """The text of lines of which `first` is the number of the first one, from 1."""
        return decode_lines(b"".join(lines), str(self.path), first)

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
