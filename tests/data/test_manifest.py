"""Manifests: three formats say the same, and what is broken is told, all of it at once."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2s.audio.features import FeatureConfig
from s2s.data.manifest import NAMED, Broken, Checked, check, complaint, read_manifest
from s2s.errors import UserError
from tests.audio.recordings import write


def plain(entry):
    """An entry without the place where it stands."""
    return entry._replace(where="")


def kinds(manifest):
    return [(entry.id, entry.kind) for entry in manifest.broken]


def tsv(path, header, *rows):
    path.write_text("\n".join(["\t".join(header), *("\t".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return str(path)


def test_the_three_formats_say_the_same(tmp_path):
    tsv(tmp_path / "m.tsv", ["id", "audio", "start", "duration", "text", "speaker"],
        ["u1", "a.wav", "0.5", "1.5", "one two", "bob"], ["u2", "b/c.wav", "2", "", "drei, größer", ""])  # fmt: skip
    rows = [
        {"id": "u1", "audio_filepath": "a.wav", "offset": 0.5, "duration": 1.5, "text": "one two", "speaker": "bob"},
        {"id": "u2", "path": "b/c.wav", "start": 2.0, "text": "drei, größer", "speaker": None},
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    for name, text in {
        "wav.scp": "rec1 a.wav\nrec2 b/c.wav\n",
        "segments": "u1 rec1 0.5 2.0\nu2 rec2 2 -1\n",
        "text": "u1 one two\nu2\tdrei, größer\n",
        "utt2spk": "u1 bob\n",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    found = [read_manifest(str(tmp_path / name), None) for name in ("m.tsv", "m.jsonl", "")]
    assert not any(manifest.broken for manifest in found)
    first, *others = [[plain(entry) for entry in manifest.entries] for manifest in found]
    assert all(other == first for other in others)
    assert first[0][1:] == ("u1", tmp_path / "a.wav", "one two", 0.5, 1.5, "bob", None, None)
    assert first[1][1:] == ("u2", tmp_path / "b/c.wav", "drei, größer", 2.0, None, None, None, None)
    assert found[0].entries[1].where == f"{tmp_path / 'm.tsv'}:3"


def test_fairseq_names_and_windows_line_ends_are_read(tmp_path):
    (tmp_path / "m.tsv").write_bytes(b"\xef\xbb\xbfid\taudio\tn_frames\ttgt_text\tlang\r\nx\ta.wav\t16000\tyes\tde\r\n")
    (entry,) = read_manifest(str(tmp_path / "m.tsv"), None).entries
    assert (entry.id, entry.audio, entry.text, entry.language) == ("x", tmp_path / "a.wav", "yes", "de")


def test_paths_start_from_the_root_and_ids_from_paths(tmp_path):
    path = tsv(
        tmp_path / "m.tsv", ["path", "start", "text"], ["a.wav", "", "x"], ["a.wav", "1.5", "y"], ["/b.wav", "", "z"]
    )
    entries = read_manifest(path, "/data").entries
    assert [entry.audio for entry in entries] == [Path("/data/a.wav"), Path("/data/a.wav"), Path("/b.wav")]
    assert [entry.id for entry in entries] == ["a.wav", "a.wav:1.5", "/b.wav"]


def test_rows_that_cannot_be_used_are_told_by_kind(tmp_path):
    rows = [
        '{"id": "ok", "audio": "a.wav", "text": "x"}',
        '{"id": "ok", "audio": "a.wav", "text": "x"}',
        '{"id": "e", "audio": "a.wav", "text": "  "}',
        '{"id": "n", "audio": "a.wav"}',
        '{"id": "a", "text": "x"}',
        '{"id": "s", "audio": "a.wav", "text": "x", "start": "soon"}',
        '{"id": "d", "audio": "a.wav", "text": "x", "duration": -2}',
        '{"id": "i", "audio": "a.wav", "text": "x", "duration": Infinity}',
        '{"id": "t", "audio": "a.wav", "path": "b.wav", "text": "x"}',
        '{"id": "l", "audio": "a.wav", "text": "x\\ny"}',
        "{",
        "[1]",
    ]
    (tmp_path / "m.jsonl").write_text("\n".join(rows) + "\n")
    manifest = read_manifest(str(tmp_path / "m.jsonl"), None)
    assert [entry.id for entry in manifest.entries] == ["ok"]
    assert manifest.read == len(rows)
    assert kinds(manifest) == [
        ("ok", "duplicate id"), ("e", "empty text"), ("n", "empty text"), ("a", "malformed"),
        *((name, "malformed") for name in ["s", "d", "", "t", "l", "", ""]),
    ]  # fmt: skip
    path = tsv(tmp_path / "m.tsv", ["id", "audio", "text"], ["x", "a.wav"], ["y", "a.wav", "b", "c"])
    assert [entry.why for entry in read_manifest(path, None).broken] == [
        "2 columns, the header has 3", "4 columns, the header has 3"
    ]  # fmt: skip


def test_kaldi_folders_run_nothing_and_miss_nothing(tmp_path):
    mark = tmp_path / "run"
    (tmp_path / "wav.scp").write_text(f"good a.wav\npipe touch {mark} |\nextra b.wav\n")
    (tmp_path / "text").write_text("good x\npipe y\nlost z\n")
    manifest = read_manifest(str(tmp_path), None)
    assert not mark.exists()
    assert [entry.id for entry in manifest.entries] == ["good"]
    assert [entry.kind for entry in manifest.broken] == ["a command", "missing", "empty text"]
    assert "commands are not run" in manifest.broken[0].why
    (tmp_path / "segments").write_text("good good 0.5\nlost good 2 1\n")
    assert [entry.kind for entry in read_manifest(str(tmp_path), None).broken] == ["malformed"] * 3


def test_kaldi_ids_end_at_the_first_space_or_tab_of_every_table(tmp_path):
    (tmp_path / "wav.scp").write_text("r1 a\tb.wav\nr2\tc d.wav\n")
    (tmp_path / "text").write_text("u1 one\ttwo\nu2\tthree four\nu3 \t five\n")
    (tmp_path / "segments").write_text("u1 r1\t0 1\nu2\tr2 1 2\nu3 \tr2 0 \t1\n")
    (tmp_path / "utt2spk").write_text("u1 bob\nu2\tann lee\n")
    manifest = read_manifest(str(tmp_path), None)
    assert not manifest.broken
    assert [(e.id, e.audio.name, e.text, e.start, e.duration, e.speaker) for e in manifest.entries] == [
        ("u1", "a\tb.wav", "one\ttwo", 0, 1, "bob"), ("u2", "c d.wav", "three four", 1, 1, "ann lee"),
        ("u3", "c d.wav", "five", 0, 1, None),
    ]  # fmt: skip


def test_a_kaldi_line_whose_id_was_there_before_is_broken(tmp_path):
    (tmp_path / "wav.scp").write_text("u1 a.wav\nu1 b.wav\nu2 b.wav\n")
    (tmp_path / "text").write_text("u1 one\nu2 two\nu2 three\n")
    manifest = read_manifest(str(tmp_path), None)
    assert [(e.id, e.audio.name, e.text) for e in manifest.entries] == [("u1", "a.wav", "one"), ("u2", "b.wav", "two")]
    assert [(e.where.rpartition("/")[2], e.kind, e.why) for e in manifest.broken] == [
        ("wav.scp:2", "duplicate id", "another line has the id u1"),
        ("text:3", "duplicate id", "another line has the id u2"),
    ]  # fmt: skip


def jsonl(path, *rows):
    """A manifest whose entries have an audio and these words of JSON beside it, and a file of it for each."""
    path.write_text("".join(f'{{"audio": "{n}.wav", {row}}}\n' for n, row in enumerate(rows)), encoding="utf-8")
    return str(path)


def test_a_number_in_json_is_the_characters_that_it_is_written_with(tmp_path):
    numbers = ["0", "7", "-0", "1.10", "1e3", "12345678901234567890123", "0.1000000000000000055"]
    path = jsonl(tmp_path / "m.jsonl", *(f'"text": {n}, "id": {100 + place}, "speaker": {n}, "duration": 1.50'
                                         for place, n in enumerate(numbers)))  # fmt: skip
    manifest = read_manifest(path, None)
    assert not manifest.broken
    assert [entry.text for entry in manifest.entries] == numbers
    assert [entry.speaker for entry in manifest.entries] == numbers
    assert [entry.id for entry in manifest.entries] == [str(100 + place) for place in range(len(numbers))]
    assert {entry.duration for entry in manifest.entries} == {1.5}


@pytest.mark.parametrize("key", ["text", "id", "speaker", "language"])
def test_json_that_is_no_string_is_broken_and_so_is_half_a_character(tmp_path, key):
    def row(value):
        return ", ".join(f'"{name}": {text}' for name, text in {"text": '"x"', key: value}.items())

    wrong, halves = ['["a", "b"]', '{"en": "a"}', "true", "false"], ['"a \\ud83d"', '"\\ude00a"']
    path = jsonl(tmp_path / "m.jsonl", *map(row, [*wrong, *halves, '"\\ud83d\\ude00"']))
    manifest = read_manifest(path, None)
    assert [getattr(entry, key) for entry in manifest.entries] == ["\U0001f600"]
    found = ["a list", "an object", "true or false", "true or false"]
    assert [entry.why for entry in manifest.broken] == [
        *(f"{key}: must be a string, not {what}" for what in found),
        *[f"{key}: half of a surrogate pair is not a character"] * 2,
    ]
    assert [entry.where for entry in manifest.broken] == [f"{path}:{number}" for number in range(1, 7)]
    assert {entry.kind for entry in manifest.broken} == {"malformed"}


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('{"audio": ["a.wav"], "text": "x"}', "audio: must be a string, not a list"),
        ('{"audio": "a\\ud800.wav", "text": "x"}', "audio: half of a surrogate pair is not a character"),
        ('{"audio": "a.wav", "text": NaN}', "NaN is not a finite number"),
        ('{"audio": "a.wav", "text": "x", "text": "y"}', "the key 'text' appears twice"),
        ('{"audio": "a.wav", "text": "x", "start": true}', "start: must be a string, not true or false"),
        ('{"audio": "a.wav", "text": "x", "start": "-1"}', "start -1: must be a number of seconds"),
        ('{"audio": "a.wav", "text": "x", "channel": 0}', "channel 0: must be a number from 1"),
        ('{"audio": "a.wav", "text": "x", "channel": "left"}', "channel left: must be a number from 1"),
        ('{"audio": "a.wav", "text": "\\u200b\\u3000"}', "no text"),
        ('{"audio": "a.wav", "text": ' + "[" * 40 + "]" * 40 + "}", "nested deeper than 32"),
        ('{"audio": "a.wav", "text": ' + "[" * 100_000 + "}", "nested deeper than 32"),
        ('{"audio": "a.wav", "text": "x"', "not JSON: it ends too early"),
        ("\x00", "not JSON: expecting value at column 1"),
    ],
)
def test_what_is_wrong_with_a_row_of_json_is_told(tmp_path, row, why):
    (tmp_path / "m.jsonl").write_text(f'{{"audio": "b.wav", "text": "b", "comment": ["not", "read"]}}\n\n{row}\n')
    manifest = read_manifest(str(tmp_path / "m.jsonl"), None)
    assert [entry.text for entry in manifest.entries] == ["b"]
    assert [(e.where, e.why) for e in manifest.broken] == [(f"{tmp_path / 'm.jsonl'}:3", why)]


rows = st.sampled_from(
    [
        '{"audio": "a", "text": "b"}',
        '{"audio": 1, "text": 2, "id": null}',
        '{"audio": "a", "text": "\\ud800"}',
        "[]",
        "1",
    ]
)


@given(content=st.lists(st.text(max_size=20) | rows, max_size=6).map("\n".join))
def test_a_manifest_of_anything_is_entries_and_broken_ones(tmp_path_factory, content):
    for name in ("any.jsonl", "any.tsv"):
        path = tmp_path_factory.getbasetemp() / name
        path.write_text(content if name == "any.jsonl" else f"audio\ttext\n{content}", encoding="utf-8")
        try:
            manifest = read_manifest(str(path), None)
        except UserError as error:
            assert str(error).startswith(str(path))  # noqa: PT017 (either outcome is right)
            continue
        for entry in manifest.entries:
            assert entry.text
            assert "".join([entry.id, entry.text, str(entry.audio), entry.speaker or ""]).encode()


def test_a_line_that_is_not_utf8_is_a_broken_entry(tmp_path):
    why = "invalid UTF-8: byte 0xe4 at byte {} of the line; convert the file to UTF-8"
    (tmp_path / "m.tsv").write_bytes(b"audio\ttext\na.wav\tx\nb.wav\t\xe4\n\nc.wav\ty\n")
    (tmp_path / "m.jsonl").write_bytes(b'{"audio": "a.wav", "text": "x"}\n\xe4\n')
    (tmp_path / "wav.scp").write_bytes(b"a a.wav\nc c.wav\n")
    (tmp_path / "text").write_bytes(b"a x\nb \xe4\nc y\n")
    for name, place, byte, texts in (
        ("m.tsv", "m.tsv:3", 7, "xy"),
        ("m.jsonl", "m.jsonl:2", 1, "x"),
        ("", "text:2", 3, "xy"),
    ):
        manifest = read_manifest(str(tmp_path / name), None)
        assert "".join(entry.text for entry in manifest.entries) == texts
        assert manifest.broken == [Broken(f"{tmp_path / place}", "", "malformed", why.format(byte))]
    (tmp_path / "m.tsv").write_bytes(b"audio\ttext\t\xe4\n")
    with pytest.raises(UserError, match=r"m.tsv:1: invalid UTF-8"):
        read_manifest(str(tmp_path / "m.tsv"), None)


def test_a_column_that_is_there_twice_is_told(tmp_path):
    path = tsv(tmp_path / "m.tsv", ["audio", "text", "note", "text", "note"], ["a.wav", "x", "", "y", ""])
    with pytest.raises(UserError, match=r"m.tsv:1: the header has the column text 2 times"):
        read_manifest(path, None)
    path = tsv(tmp_path / "m.tsv", ["audio", "text", "note", "note"], ["a.wav", "x", "", ""])
    assert len(read_manifest(path, None).entries) == 1  # columns that are not read may be anything


def test_a_channel_makes_another_entry_of_a_recording(tmp_path):
    path = tsv(
        tmp_path / "m.tsv", ["audio", "text", "channel"], ["a.wav", "x", "1"], ["a.wav", "y", "2"], ["a.wav", "z", ""]
    )
    assert [(e.id, e.channel) for e in read_manifest(path, None).entries] == [
        ("a.wav#1", 1),
        ("a.wav#2", 2),
        ("a.wav", None),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.tsv", None, "no such manifest"),
        ("m.csv", "x", "a manifest is a .tsv or .jsonl file, or a Kaldi folder"),
        ("m.tsv", "", r"the header \(first line\) has no column"),
        ("m.tsv", "a.wav\thello\n", "has no column audio or path or audio_filepath; it has a.wav, hello"),
        ("m.tsv", "audio\tspeaker\n", "has no column text or tgt_text"),
        ("m.tsv", "audio\ttext\n", "no entries"),
        ("m.jsonl", "", "no entries"),
    ],
)
def test_what_is_no_manifest_is_told(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_manifest(str(tmp_path / name), None)
    with pytest.raises(UserError, match=r"it has no wav.scp"):
        read_manifest(str(tmp_path), None)


def test_recordings_are_read_to_their_end(tmp_path):
    write(tmp_path / "good.wav", 0.5)
    write(tmp_path / "short.wav", 0.02)
    write(tmp_path / "fast.wav", 0.5, 16000)
    cut = write(tmp_path / "cut.wav")
    cut.write_bytes(cut.read_bytes()[:1000])
    names = ["good", "short", "fast", "cut", "none"]
    path = tsv(tmp_path / "m.tsv", ["id", "audio", "text"], *([name, f"{name}.wav", "x"] for name in names))
    entries = read_manifest(path, None).entries
    config = FeatureConfig(sample_rate=8000)
    found = check(config, "resample", entries)
    assert [one.kind if isinstance(one, Broken) else one for one in found] == [
        Checked(0.5, 8000, False, False), "too short", Checked(0.5, 16000, False, False), "truncated", "missing"
    ]  # fmt: skip
    fast = check(config, "error", entries)[2]
    assert fast.kind == "wrong rate"
    assert "16000 Hz; features.sample_rate=8000" in fast.why


def test_a_complaint_names_some_and_counts_all():
    broken = [Broken(f"m.tsv:{n}", f"u{n}", "missing" if n % 2 else "empty text", "gone") for n in range(NAMED + 5)]
    lines = complaint(broken, 1000).split("\n")
    assert lines[0] == "25 of 1,000 entries are broken (13 empty text, 12 missing)"
    assert lines[1] == "  m.tsv:0: u0: gone"
    assert len(lines) == NAMED + 2
    assert lines[-1] == "  and 5 more"
    assert len(complaint([Broken("m.tsv:1", "i" * 5000, "missing", "p" * 5000)], 1)) < 800
