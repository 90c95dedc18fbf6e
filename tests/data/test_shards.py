"""`s2s-preprocess shard=K/N`: a store of parts is that of one machine, byte for byte, and no part may be missing."""

import json
import random
import re
from pathlib import Path

import pytest

from s2s.data import corpus, lines, shards, tables
from s2s.errors import UserError

TEXT = ("source=de", "target=en", "train=train", "valid=valid", "test=test", "workers=1", "tokenizer.vocab_size=30",
        "filter.max_length=30")  # fmt: skip


@pytest.fixture
def preprocess(s2s, tmp_path, monkeypatch, capsys):
    """preprocess(words) runs the command in the folder of a small corpus, which has some 20 chunks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 500)
    monkeypatch.setattr(lines, "BLOCK_BYTES", 300)
    rng = random.Random(1)
    for name, count in (("train", 400), ("valid", 30), ("test", 10)):
        for side, words in (("de", "der die Haus Wald grün Hund"), ("en", "the house wood green dog")):
            rows = [" ".join(rng.choices(words.split(), k=rng.randrange(0, 12))) for _ in range(count)]
            Path(f"{name}.{side}").write_text("".join(f"{row}\n" for row in rows * (1 + (name == "train"))))

    def run(*words):
        capsys.readouterr()
        return s2s("preprocess", *words), capsys.readouterr()

    return run


def content(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def fails(result, *parts) -> None:
    code, said = result
    assert code == 2
    assert len(said.err.splitlines()) == 1, said.err
    for part in parts:
        assert part in said.err


@pytest.mark.parametrize("more", [(), ("tokenizer=characters", "keep_text=true", "shard_pairs=70")])
def test_a_store_of_parts_is_that_of_one_machine(preprocess, more):
    code, whole = preprocess(*TEXT, *more, "store=whole")
    assert code == 0, whole.err
    words = *TEXT, *more, "store=out"
    fails(preprocess(*words, "shard=2/3"), "shard=learn")
    assert preprocess(*words, "shard=learn")[0] == 0
    sizes = []
    for number in (3, 1, 2):
        assert preprocess(*words, f"shard={number}/3", "workers=1")[0] == 0
        sizes.append(Path(f"out.parts/{number}-of-3").stat().st_size)
    assert min(sizes) > max(sizes) / 3
    code, joined = preprocess(*words, "shard=join")
    assert code == 0, joined.err
    assert content("out") == content("whole")
    assert not Path("out.parts").exists()
    assert "pairs repeat an earlier one" in whole.out
    assert joined.out.split("\n")[1:] == whole.out.split("\n")[1:]  # the report; the first line has the time


def test_rows_of_a_table_are_divided_too(preprocess, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    monkeypatch.setattr(tables, "ROWS", 50)
    rows = {side: Path(f"train.{side}").read_text().splitlines() for side in ("de", "en")}
    parquet.write_table(pyarrow.table(rows), "train.parquet")
    words = "source=de", "target=en", "train=train.parquet", "tokenizer=bytes", "workers=1"
    assert preprocess(*words, "store=whole")[0] == 0
    counts = [int(preprocess(*words, "store=out", f"shard={n}/3")[1].out.split()[1]) for n in (1, 2, 3)]
    assert min(counts) > sum(counts) / 4
    assert preprocess(*words, "store=out", "shard=join")[0] == 0
    assert content("out") == content("whole")


def test_no_part_may_be_missing_changed_or_made_in_another_way(preprocess):
    words = *TEXT, "tokenizer=bytes", "store=out"
    words = tuple(word for word in words if "vocab_size" not in word)
    fails(preprocess(*words, "shard=join"), "there are no parts")
    for number in (1, 3):
        assert preprocess(*words, f"shard={number}/3")[0] == 0  # bytes are not learned
    fails(preprocess(*words, "shard=join"), "1 of 3 parts are missing: shard=2/3")
    assert preprocess(*words, "shard=2/3", "filter.max_length=29")[0] == 0
    fails(preprocess(*words, "shard=join"), "2-of-3: shard=2/3 was made with filter.max_length=29, now 30")
    fails(preprocess(*words, "shard=2/3"), "filter.max_length=29, now 30", "overwrite=true")
    assert preprocess(*words, "shard=2/3", "overwrite=true")[0] == 0
    assert "is there already" in preprocess(*words, "shard=2/3")[1].out
    part = Path("out.parts/2-of-3")
    plain = part.read_bytes()
    part.write_bytes(plain[:-1])
    fails(preprocess(*words, "shard=join"), f"{part}: truncated or changed")
    part.write_bytes(plain)
    old = Path("valid.de").read_text()
    Path("valid.de").write_text(old + "\n")
    fails(preprocess(*words, "shard=join"), "1-of-3", "input.valid.de.size=")
    Path("valid.de").write_text(old)
    assert preprocess(*words, "shard=1/2")[0] == 0
    fails(preprocess(*words, "shard=join"), "has parts of 2 and of 3")
    for path in Path("out.parts").glob("*-of-2*"):
        path.unlink()
    assert preprocess(*words, "shard=join")[0] == 0


def test_a_shard_that_is_none_and_a_stream_are_refused(preprocess):
    for shard in ("0/3", "4/3", "3", "x"):
        fails(preprocess(*TEXT, "store=out", f"shard={shard}"), f"shard={shard}: K/N is needed")
    fails(preprocess(*TEXT, "store=out", "shard=1/2", "filter.command=cat"), "filter.command=")


@pytest.mark.parametrize("cmvn", ["global", "utterance"])
def test_a_store_of_speech_of_parts(s2s, tmp_path, monkeypatch, capsys, cmvn):
    from tests.data.test_speech import corpus as recordings

    pytest.importorskip("soundfile")
    monkeypatch.chdir(tmp_path)
    recordings(tmp_path, 7)
    with open("m.tsv", "a") as file:
        file.write("u8\tmissing.wav\tyes\ts0\t\n")
    words = ("task=speech_to_text", "train=m.tsv", "valid=m.tsv", f"features.cmvn={cmvn}", "tokenizer=characters",
             "features.sample_rate=8000", "workers=1", "skip_broken=true")  # fmt: skip
    assert s2s("preprocess", *words, "store=whole") == 0, capsys.readouterr().err
    for shard in ("learn", "2/3", "1/3", "3/3", "join"):
        assert s2s("preprocess", *words, "store=out", f"shard={shard}") == 0, capsys.readouterr().err
    assert content("out") == content("whole")
    assert json.loads(Path("out/manifest.json").read_text())["splits"]["train"]["pairs"] == 7


@pytest.mark.parametrize(("module", "name"), [
    ("posix", "system"), ("numpy", "load"),
    ("s2s.data.shards", "tempfile.TemporaryDirectory"), ("s2s.data.shards", "Path"), ("s2s.files", "os.system"),
    ("s2s.data.shards", "Chunk"),  # a class that the module imports
    ("s2s.data.shards", "learn"), ("s2s.data.shards", "Recorded"),
])  # fmt: skip
def test_a_part_from_elsewhere_creates_no_other_objects(module, name):
    content = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name)) + b"\x93."
    with pytest.raises(UserError, match=f"{re.escape(name)}, which is not read"):
        shards._Unpickler(content, ("s2s",)).load()
