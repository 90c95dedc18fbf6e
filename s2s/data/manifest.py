"""Manifests: which recordings there are, and what is said in them. Every entry is looked at before any is used.

    FILE.tsv      a header, then a row for each utterance
    FILE.jsonl    a JSON object on each line
    FOLDER        of Kaldi: wav.scp and text, perhaps segments and utt2spk

Columns and keys are those of COLUMNS, under any of their names; others are not read. Only audio and text must be there.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from s2s.audio.features import Fbank, FeatureConfig
from s2s.audio.waveform import AudioError, record
from s2s.data.lines import decode_lines
from s2s.errors import UserError

COLUMNS = {
    "id": ("id",),
    "audio": ("audio", "path", "audio_filepath"),
    "start": ("start", "offset"),  # seconds
    "duration": ("duration",),  # seconds
    "text": ("text", "tgt_text"),
    "speaker": ("speaker",),
    "language": ("language", "lang"),
}
NAMED = 20  # broken entries that a message names; the others are counted
KALDI = ("wav.scp", "text")


class Entry(NamedTuple):
    """An utterance of a manifest: a stretch of the file `audio`, from `start` on, to its end if `duration` is None."""

    where: str  # FILE:LINE
    id: str
    audio: Path
    text: str
    start: float = 0.0
    duration: float | None = None
    speaker: str | None = None
    language: str | None = None


class Broken(NamedTuple):
    """An entry that cannot be used: of what kind its trouble is, and what it is."""

    where: str
    id: str
    kind: str
    why: str


class Manifest(NamedTuple):
    """The entries of a manifest, those that are broken on the face of it apart; `read`: of all."""

    name: str
    entries: list[Entry]
    broken: list[Broken]

    @property
    def read(self) -> int:
        return len(self.entries) + len(self.broken)


class Checked(NamedTuple):
    """What the recording of an entry is like."""

    seconds: float
    rate: int
    clipped: bool


class _BrokenError(Exception):
    """Of an entry: its kind and what it is."""


def read_manifest(name: str, root: str | None, needs_text: bool = True) -> Manifest:
    """Read a manifest; recordings are not looked at.

    Args:
        name: A .tsv or .jsonl file or a Kaldi folder.
        root: The folder that relative paths start from; None: the manifest's.
        needs_text: Whether each entry must have a text (in a Kaldi folder they always must).

    Raises:
        UserError: no such file, none of these formats, a column that is missing, no entries.
    """
    path = Path(name)
    if not path.exists():
        raise UserError(f"{name}: no such manifest")
    if path.is_dir():
        rows = _kaldi(path)
    elif path.suffix == ".tsv":
        rows = _tsv(path, needs_text)
    elif path.suffix == ".jsonl":
        rows = _jsonl(path)
    else:
        raise UserError(f"{name}: a manifest is a .tsv or .jsonl file, or a Kaldi folder")
    folder = Path(root) if root is not None else path if path.is_dir() else path.parent
    manifest, seen = Manifest(name, [], []), set()
    for where, row in rows:
        try:
            entry = _entry(where, row, folder, needs_text)
            if entry.id in seen:
                raise _BrokenError("duplicate id", f"the id {entry.id} was there before")
            seen.add(entry.id)
            manifest.entries.append(entry)
        except _BrokenError as error:
            utterance = row.get("id") if isinstance(row, dict) else None
            manifest.broken.append(Broken(where, str(utterance or ""), *error.args))
    if not manifest.read:
        raise UserError(f"{name}: no entries")
    return manifest


Row = dict[str, str] | _BrokenError


def _entry(where: str, row: Row, folder: Path, needs_text: bool) -> Entry:
    """The entry of a row. Raises _BrokenError."""
    if isinstance(row, _BrokenError):
        raise row
    found = {}
    for column, names in COLUMNS.items():
        values = {key: row[key] for key in names if row.get(key) not in (None, "")}
        if len(values) > 1:
            raise _BrokenError("malformed", f"{' and '.join(values)} say the same: one of them is needed")
        found[column] = next(iter(values.values()), None)
    if found["audio"] is None:
        raise _BrokenError("malformed", "no audio")
    text = str(found["text"] or "").strip()
    if needs_text and not text:
        raise _BrokenError("empty text", "no text")
    if "\n" in text:
        raise _BrokenError("malformed", "a text of several lines")
    start, duration = _seconds(found, "start") or 0.0, _seconds(found, "duration")
    audio = str(found["audio"])
    segment = "" if found["start"] is None and duration is None else f":{start:g}"
    speaker, language = (None if found[key] is None else str(found[key]) for key in ("speaker", "language"))
    return Entry(where, str(found["id"] or audio + segment), folder / audio, text, start, duration, speaker, language)


def _seconds(found: dict, column: str) -> float | None:
    value = found[column]
    try:
        seconds = None if value is None else float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if seconds is not None and not 0 <= seconds < float("inf"):
        raise _BrokenError("malformed", f"{column} {value}: a number of seconds is needed")
    return seconds


def _lines(path: Path) -> list[str]:
    """The lines of a text file. Raises UserError naming the line that is not UTF-8."""
    block = path.read_bytes()
    return decode_lines(block, str(path), 1) if block else []


def _tsv(path: Path, needs_text: bool) -> Iterator[tuple[str, Row]]:
    lines = _lines(path)
    header = lines[0].split("\t") if lines else []
    for column in ("audio", "text")[: 1 + needs_text]:
        if not set(COLUMNS[column]) & set(header):
            names = " or ".join(COLUMNS[column])
            raise UserError(f"{path}:1: the first line names the columns; {names} is not among {', '.join(header)}")
    for number, line in enumerate(lines[1:], 2):
        fields = line.split("\t")
        if len(fields) != len(header):
            yield f"{path}:{number}", _BrokenError("malformed", f"{len(fields)} columns, the header has {len(header)}")
        else:
            yield f"{path}:{number}", dict(zip(header, fields, strict=True))


def _jsonl(path: Path) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            yield f"{path}:{number}", row if isinstance(row, dict) else _BrokenError("malformed", "no JSON object")
        except ValueError as error:
            yield f"{path}:{number}", _BrokenError("malformed", f"not JSON: {error}")


def _kaldi(folder: Path) -> Iterator[tuple[str, Row]]:
    for name in KALDI:
        if not (folder / name).is_file():
            raise UserError(f"{folder}: not a folder of Kaldi: it has no {name}")
    recordings, texts = _table(folder / "wav.scp"), _table(folder / "text")
    speakers = _table(folder / "utt2spk")
    segments = _table(folder / "segments") if (folder / "segments").is_file() else None
    for utterance, (where, text) in texts.items():
        row: dict = {"id": utterance, "text": text, "speaker": speakers.get(utterance, ("", ""))[1]}
        recording = utterance
        if segments is not None:
            fields = segments.get(utterance, ("", ""))[1].split()
            if len(fields) != 3:
                yield where, _BrokenError("malformed", f"{utterance}: segments needs a recording, its start and end")
                continue
            recording, start, end = fields
            try:
                row |= {"start": start, "duration": None if float(end) < 0 else float(end) - float(start)}
            except ValueError:
                yield where, _BrokenError("malformed", f"{utterance}: segments: {start} and {end} are no seconds")
                continue
        row["audio"] = recordings.get(recording, ("", ""))[1]
        if row["audio"].endswith("|") or row["audio"].startswith("|"):
            why = f"{recording}: wav.scp has a command, and none is run; write its output into files"
            yield where, _BrokenError("a command", why)
        elif not row["audio"]:
            yield where, _BrokenError("missing", f"{recording}: not in wav.scp")
        else:
            yield where, row
    for utterance, (where, _) in (recordings if segments is None else segments).items():
        if utterance not in texts:
            yield where, _BrokenError("empty text", f"{utterance}: not in text")


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """The lines of a Kaldi table by their first word: where they are, and what follows. Raises UserError: one twice."""
    table: dict[str, tuple[str, str]] = {}
    for number, line in enumerate(_lines(path) if path.is_file() else [], 1):
        key, _, rest = line.strip().partition(" ") if "\t" not in line else line.strip().partition("\t")
        if key in table:
            raise UserError(f"{path}:{number}: {key} was there before")
        if key:
            table[key] = f"{path}:{number}", rest.strip()
    return table


def check(config: FeatureConfig, wrong_rate: str, entries: list[Entry]) -> list[Checked | Broken]:
    """Read the recording of each entry to its end.

    Args:
        config: The features that shall be made.
        wrong_rate: "error": one of another rate than the features' is broken.
        entries: The entries.
    """
    fbank = Fbank(config)
    return [_check(fbank, wrong_rate, entry) for entry in entries]


def _check(fbank: Fbank, wrong_rate: str, entry: Entry) -> Checked | Broken:
    try:
        samples, rate, clipped = record(entry.audio, entry.start, entry.duration)
        wanted = fbank.config.sample_rate
        if rate != wanted and wrong_rate == "error":
            raise AudioError(f"{entry.audio}: {rate} Hz; features.sample_rate={wanted}, and wrong_rate=error",
                             "wrong rate")  # fmt: skip
        if not fbank.frames(len(samples) * wanted // rate):
            raise AudioError(f"{entry.audio}: {len(samples) / rate:g} s are less than a frame", "too short")
    except AudioError as error:
        return Broken(entry.where, entry.id, error.kind, str(error))
    return Checked(len(samples) / rate, rate, clipped)


def complaint(broken: list[Broken], of: int, what: str = "broken") -> str:
    """What is broken, `of` so many entries: how many of each kind, and the first NAMED each on a line of its own."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(entry.kind for entry in broken).items()))
    lines = [f"{len(broken):,} of {of:,} entries are {what} ({kinds})"]
    lines += [f"  {e.where}: " + (f"{e.id}: " if e.id else "") + e.why for e in broken[:NAMED]]
    if len(broken) > NAMED:
        lines.append(f"  and {len(broken) - NAMED:,} more")
    return "\n".join(lines)
