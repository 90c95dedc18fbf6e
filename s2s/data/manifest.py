"""Manifests of recordings and their texts. All entries are checked before any of them is used.

    FILE.tsv      a header, then a row for each utterance
    FILE.jsonl    a JSON object on each line
    FOLDER        of Kaldi: wav.scp and text, perhaps segments and utt2spk

Columns and keys are those of COLUMNS, under any of their names; others are ignored. Only audio and text are required.
A number in place of a string is read as the characters with which it is written.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from s2s.audio.features import Fbank, FeatureConfig
from s2s.audio.waveform import AudioError, record
from s2s.audio.whisper import features_of
from s2s.config.documents import parse_json
from s2s.config.shapes import cut
from s2s.config.streams import is_stream
from s2s.data.lines import BLOCK_BYTES, STANDARD_INPUT, LineReader, decode_lines
from s2s.errors import UserError
from s2s.text.tokenizer import is_blank

COLUMNS = {
    "id": ("id",),
    "audio": ("audio", "path", "audio_filepath"),
    "start": ("start", "offset"),  # seconds
    "duration": ("duration",),  # seconds
    "channel": ("channel",),  # from 1
    "text": ("text", "tgt_text"),
    "speaker": ("speaker",),
    "language": ("language", "lang"),
}
LONGEST = 300  # maximum length of an id, and of the description of a problem, in messages
NAMED = 20  # maximum number of broken entries that a message names; the others are counted
NOT_STRINGS = {list: "a list", dict: "an object", bool: "true or false"}  # JSON values that are no strings
KALDI = ("wav.scp", "text")


class Entry(NamedTuple):
    """An utterance of a manifest: the part of the file `audio` from `start` for `duration` seconds (None: to its
    end)."""

    where: str  # FILE:LINE
    id: str
    audio: Path
    text: str
    start: float = 0.0
    duration: float | None = None
    speaker: str | None = None
    language: str | None = None
    channel: int | None = None  # from 1; None: as the features say


class Broken(NamedTuple):
    """An entry that cannot be used: its place, its id, the kind of the problem, and a description."""

    where: str
    id: str
    kind: str
    why: str


class Manifest(NamedTuple):
    """The entries of a manifest, and those that are visibly broken; `read` is the number of all."""

    name: str
    entries: list[Entry]
    broken: list[Broken]

    @property
    def read(self) -> int:
        return len(self.entries) + len(self.broken)


class Checked(NamedTuple):
    """Facts about the recording of an entry: duration in seconds, rate in Hz, whether it is clipped or silent."""

    seconds: float
    rate: int
    clipped: bool
    silent: bool


class _BrokenError(Exception):
    """The problem of an entry: its kind and a description."""


def read_manifest(name: str, root: str | None, needs_text: bool = True) -> Manifest:
    """Read a manifest; recordings are not opened.

    Args:
        name: A .tsv or .jsonl file, a Kaldi folder, or a stream (`-` is standard input), which is read as .tsv.
        root: The folder of relative paths; None: the folder of the manifest, or for a stream the working folder.
        needs_text: Whether each entry must have a text (in a Kaldi folder always).

    Raises:
        UserError: there is no such file, its format is unknown, a column is missing or duplicate, or it has no entries.
    """
    path = STANDARD_INPUT if name == "-" else Path(name)
    streams = name == "-" or is_stream(path)
    if not streams and not path.exists():
        raise UserError(f"{name}: no such manifest")
    if not streams and path.is_dir():
        rows = _kaldi(path)
    elif streams or path.suffix == ".tsv":
        rows = _tsv(path, needs_text)
    elif path.suffix == ".jsonl":
        rows = _jsonl(path)
    else:
        raise UserError(f"{name}: a manifest is a .tsv or .jsonl file, or a Kaldi folder")
    near = Path() if streams else path if path.is_dir() else path.parent
    folder = Path(root) if root is not None else near
    manifest, seen = Manifest(name, [], []), set()
    for where, row in rows:
        try:
            entry = _entry(where, row, folder, needs_text)
            if entry.id in seen:
                raise _BrokenError("duplicate id", f"another entry has the id {entry.id}")
            seen.add(entry.id)
            manifest.entries.append(entry)
        except _BrokenError as error:
            utterance = row.get("id") if isinstance(row, dict) else None
            name = utterance if isinstance(utterance, str) else ""
            manifest.broken.append(Broken(where, name, *error.args))
    if not manifest.read:
        raise UserError(f"{name}: no entries")
    return manifest


Row = dict[str, object] | _BrokenError


def _entry(where: str, row: Row, folder: Path, needs_text: bool) -> Entry:
    """Make the entry of a row. Raises _BrokenError."""
    if isinstance(row, _BrokenError):
        raise row
    values = {column: _value(row, names) for column, names in COLUMNS.items()}
    audio, text = values["audio"], (values["text"] or "").strip()
    if audio is None:
        raise _BrokenError("malformed", "no audio")
    if needs_text and is_blank(text):
        raise _BrokenError("empty text", "no text")
    if "\n" in text:
        raise _BrokenError("malformed", "a text of several lines")
    start, duration, channel = _seconds(values, "start") or 0.0, _seconds(values, "duration"), values["channel"]
    if channel is not None and not re.fullmatch("[1-9][0-9]{0,2}", channel):
        raise _BrokenError("malformed", f"channel {channel}: must be a number from 1")
    segment = "" if values["start"] is None and duration is None else f":{start:g}"
    name = values["id"] or audio + segment + (f"#{channel}" if channel else "")
    return Entry(where, name, folder / audio, text, start, duration, values["speaker"], values["language"],
                 int(channel) if channel else None)  # fmt: skip


def _value(row: dict[str, object], names: tuple[str, ...]) -> str | None:
    """The value of a row under one of these names; None: it has none. Raises _BrokenError if it has several values, or
    the value is no string."""
    values = {name: row[name] for name in names if row.get(name) not in (None, "")}
    if len(values) > 1:
        raise _BrokenError("malformed", f"{' and '.join(values)} mean the same; give only one of them")
    for name, value in values.items():
        if not isinstance(value, str):
            raise _BrokenError("malformed", f"{name}: must be a string, not {NOT_STRINGS[type(value)]}")
        return value
    return None


def _seconds(values: dict[str, str | None], column: str) -> float | None:
    value = values[column]
    try:
        seconds = None if value is None else float(value)
    except ValueError:
        seconds = -1.0
    if seconds is not None and not 0 <= seconds < float("inf"):
        raise _BrokenError("malformed", f"{column} {value}: must be a number of seconds")
    return seconds


def _lines(path: Path) -> Iterator[tuple[str, str | _BrokenError]]:
    """The non-empty lines of a text file and their places."""
    with closing(LineReader(path, cut=True)) as reader:
        while lines := reader.read(BLOCK_BYTES):
            for number, line in enumerate(lines, reader.line - len(lines) + 1):
                where = f"{path}:{number}"
                try:
                    if len(line.rstrip(b"\n")) > reader.max_line_bytes:
                        raise UserError(f"longer than {reader.max_line_bytes:,} bytes")
                    (text,) = decode_lines(line, str(path), number)
                    if text.strip():
                        yield where, text
                except UserError as error:
                    yield where, _malformed(where, error)


def _malformed(where: str, error: UserError) -> _BrokenError:
    return _BrokenError("malformed", str(error).removeprefix(f"{where}: "))


def _tsv(path: Path, needs_text: bool) -> Iterator[tuple[str, Row]]:
    lines = _lines(path)
    where, first = next(lines, (f"{path}:1", ""))
    if isinstance(first, _BrokenError):
        raise UserError(f"{where}: {first.args[1]}")
    header = first.split("\t")
    for column in ("audio", "text")[: 1 + needs_text]:
        if not set(COLUMNS[column]) & set(header):
            names = " or ".join(COLUMNS[column])
            raise UserError(f"{where}: the header (first line) has no column {names}; it has {', '.join(header)}")
    for name in (name for names in COLUMNS.values() for name in names if header.count(name) > 1):
        raise UserError(f"{where}: the header has the column {name} {header.count(name)} times")
    for where, line in lines:
        if isinstance(line, _BrokenError):
            yield where, line
        elif line.count("\t") + 1 == len(header):
            yield where, dict(zip(header, line.split("\t"), strict=True))
        else:
            columns = line.count("\t") + 1
            yield where, _BrokenError("malformed", f"{columns} columns, the header has {len(header)}")


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for where, line in _lines(path):
        try:
            yield where, line if isinstance(line, _BrokenError) else parse_json(line, where, {...: object}, number=str)
        except UserError as error:
            yield where, _malformed(where, error)


def _kaldi(folder: Path) -> Iterator[tuple[str, Row]]:
    for name in KALDI:
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not a Kaldi folder: it has no {name}")
    broken: list[tuple[str, Row]] = []
    recordings, texts, speakers = (_table(folder / name, broken) for name in (*KALDI, "utt2spk"))
    segments = _table(folder / "segments", broken) if (folder / "segments").is_file() else None
    yield from broken
    for utterance, (where, text) in texts.items():
        row: dict = {"id": utterance, "text": text, "speaker": speakers.get(utterance, ("", ""))[1]}
        recording = utterance
        if segments is not None:
            fields = segments.get(utterance, ("", ""))[1].split()
            if len(fields) != 3:
                yield where, _BrokenError("malformed", f"{utterance}: segments must give a recording, start and end")
                continue
            recording, start, end = fields
            try:
                row |= {"start": start, "duration": None if float(end) < 0 else str(float(end) - float(start))}
            except ValueError:
                yield where, _BrokenError("malformed", f"{utterance}: segments: {start} and {end} are not seconds")
                continue
        row["audio"] = recordings.get(recording, ("", ""))[1]
        if row["audio"].endswith("|") or row["audio"].startswith("|"):
            why = f"{recording}: wav.scp has a command, and commands are not run; write its output into files"
            yield where, _BrokenError("a command", why)
        elif not row["audio"]:
            yield where, _BrokenError("missing", f"{recording}: not in wav.scp")
        else:
            yield where, row
    for utterance, (where, _) in (recordings if segments is None else segments).items():
        if utterance not in texts:
            yield where, _BrokenError("empty text", f"{utterance}: not in text")


def _table(path: Path, broken: list[tuple[str, Row]]) -> dict[str, tuple[str, str]]:
    """The lines of a Kaldi table, by id.

    Args:
        path: The table; the id of a line ends at the first space or tab.
        broken: Lines that cannot be read, or have the id of an earlier line, are added to it.

    Returns:
        Id -> place of the line, and its text after the id.
    """
    table: dict[str, tuple[str, str]] = {}
    for where, line in _lines(path) if path.is_file() else ():
        if isinstance(line, _BrokenError):
            broken.append((where, line))
            continue
        key, *rest = re.split(r"[ \t]+", line.strip(), maxsplit=1)
        if key in table:
            broken.append((where, _BrokenError("duplicate id", f"another line has the id {key}")))
        else:
            table[key] = where, "".join(rest)
    return table


def check(config: FeatureConfig, wrong_rate: str, entries: list[Entry]) -> list[Checked | Broken]:
    """Read the recording of each entry to its end.

    Args:
        config: Options of the features.
        wrong_rate: "error": a recording of another rate than the features' is broken.
        entries: The entries.
    """
    fbank = features_of(config)
    return [_check(fbank, wrong_rate, entry) for entry in entries]


def _check(fbank: Fbank, wrong_rate: str, entry: Entry) -> Checked | Broken:
    try:
        samples, rate, clipped, silent = record(
            entry.audio, entry.start, entry.duration, entry.channel or fbank.config.channel
        )
        wanted = fbank.config.sample_rate
        if rate != wanted and wrong_rate == "error":
            raise AudioError(f"{entry.audio}: {rate} Hz; features.sample_rate={wanted}, and wrong_rate=error",
                             "wrong rate")  # fmt: skip
        if complaint := fbank.complaint(len(samples), rate):
            raise AudioError(f"{entry.audio}: {complaint[0]}", complaint[1])
    except AudioError as error:
        return Broken(entry.where, entry.id, error.kind, str(error))
    return Checked(len(samples) / rate, rate, clipped, silent)


def complaint(broken: list[Broken], of: int, what: str = "broken") -> str:
    """The message about broken entries: the number of each kind, and the first NAMED entries, one per line.

    Args:
        broken: The broken entries.
        of: The number of all entries.
        what: What happened to them.
    """
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(entry.kind for entry in broken).items()))
    lines = [f"{len(broken):,} of {of:,} entries are {what} ({kinds})"]
    lines += [
        f"  {e.where}: " + cut(f"{e.id}: " if e.id else "", LONGEST) + cut(e.why, LONGEST) for e in broken[:NAMED]
    ]
    if len(broken) > NAMED:
        lines.append(f"  and {len(broken) - NAMED:,} more")
    return "\n".join(lines)
