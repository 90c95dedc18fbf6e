"""`s2s-preprocess` end to end: deterministic stores, exact counts, one clear line for each mistake."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from s2s.data import corpus
from s2s.data.preprocess import FilterConfig, select
from s2s.data.store import Store
from s2s.errors import Failure

COMMAND = [sys.executable, "-c", "from s2s_cli.preprocess import main; main()"]


def lines(count: int, words: str, seed: int = 1) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words.split(), k=rng.randrange(1, 12))) for _ in range(count)]


def write(folder: Path, name: str, text: list[str]) -> None:
    (folder / name).write_bytes("".join(f"{line}\n" for line in text).encode())


@pytest.fixture
def data(tmp_path):
    """A folder with a small corpus: train, valid and test."""
    for number, (name, count) in enumerate((("train", 600), ("valid", 20), ("test", 10))):
        write(tmp_path, f"{name}.de", lines(count, "der die Häuser über grün Wald Hund läuft Straße . ,", number))
        write(tmp_path, f"{name}.en", lines(count, "the house over green wood dog runs street . ,", number + 10))
    return tmp_path


@pytest.fixture
def run(data, s2s, monkeypatch, capsys):
    """Run the command in this process, inside the data's folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(data)
    handler = signal.getsignal(signal.SIGTERM)

    def call(*words: str) -> tuple[int, str, str]:
        code = s2s("preprocess", "source=de", "target=en", "store=out", "workers=1", *words)
        return code, *capsys.readouterr()

    yield call
    signal.signal(signal.SIGTERM, handler)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def shared(store: Store) -> bool:
    source, target = store.tokenizers().values()
    return source.vocabulary.digest == target.vocabulary.digest


def assert_nothing_written(folder: Path) -> None:
    assert [path.name for path in folder.iterdir() if path.name.startswith("out")] == []


SMALL = "tokenizer.vocab_size=48"
SPLITS = ("train=train", "valid=valid", "test=test")


def test_the_store_holds_what_the_corpus_held(run, data):
    code, out, err = run(*SPLITS, SMALL)
    assert (code, err) == (0, "")
    store = Store("out")
    store.verify()
    source, target = store.tokenizers().values()
    assert source is target
    assert store.splits == ["train", "valid", "test"]
    for name in store.splits:
        split = store.split(name)
        for side, tokenizer, ids, lengths in (
            ("de", source, partial(split.row, "source.tokens"), split.lengths("source.tokens")),
            ("en", target, partial(split.row, "target.tokens"), split.lengths("target.tokens")),
        ):
            text = (data / f"{name}.{side}").read_text().split("\n")[:-1]
            assert [tokenizer.decode(ids(i)) for i in range(len(split))] == text
            assert lengths.tolist() == [len(tokenizer.encode(line)) for line in text]
        for column in ("source.tokens", "target.tokens"):
            assert split.longest(column) == split.lengths(column).max()
    assert store.split("test").lines("source.text") == (data / "test.de").read_text().split("\n")[:-1]
    assert list(store.split("train").columns) == ["source.tokens", "target.tokens"]
    assert "600" in out


@pytest.mark.parametrize("kind", ["sentencepiece", "characters", "words"])
def test_files_are_the_same_whatever_the_number_of_workers(run, monkeypatch, kind):
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 500)
    options = [SMALL, "tokenizer.sample_lines=300"] if kind == "sentencepiece" else []
    for workers in (1, 2, 3):
        words = (f"tokenizer={kind}", *options, f"workers={workers}", f"store=out{workers}", "filter.max_ratio=2")
        assert run(*SPLITS, *words)[0] == 0
    assert files("out1") == files("out2") == files("out3")


def test_shards_are_the_same_whatever_the_number_of_workers_and_hold_what_one_shard_holds(run, monkeypatch):
    words = (SMALL, "filter.max_ratio=2", "keep_text=true")
    assert run(*SPLITS, *words, "store=out0")[0] == 0
    for workers, chunk in ((1, 500), (2, 500), (3, 900)):
        monkeypatch.setattr(corpus, "CHUNK_BYTES", chunk)
        assert run(*SPLITS, *words, f"workers={workers}", f"store=out{workers}", "shard_pairs=150")[0] == 0
    assert files("out1") == files("out2") == files("out3")
    one, many = Store("out0"), Store("out1")
    many.verify()
    for name in one.splits:
        pairs = len(one.split(name))
        assert many.manifest["splits"][name]["shards"] == [150] * (pairs // 150) + [pairs % 150] * (pairs % 150 > 0)
        for side in ("source", "target"):
            expected, found = (store.split(name).gather(f"{side}.tokens", np.arange(pairs)) for store in (one, many))
            assert [part.tolist() for part in expected] == [part.tolist() for part in found]
        assert one.split(name).lines("source.text") == many.split(name).lines("source.text")
    assert len(many.manifest["splits"]["train"]["shards"]) > 2


def test_examples_are_known_by_their_corpus(run):
    assert run("train=train,valid", SMALL)[0] == 0
    corpora = Store("out").split("train").corpora
    assert corpora == [("train", 0, 600, "de", "en", ()), ("valid", 600, 620, "de", "en", ())]


def test_chunk_borders_do_not_show_in_the_store(run, monkeypatch):
    run(*SPLITS, SMALL, "store=out1")
    monkeypatch.setattr(corpus, "CHUNK_BYTES", 100)
    run(*SPLITS, SMALL, "store=out2")
    assert files("out1") == files("out2")


def test_the_seed_chooses_the_sample_to_learn_from(run):
    stores = []
    for number, seed in enumerate((1, 1, 2)):
        name = f"out{number}"
        run(*SPLITS, "tokenizer.vocab_size=40", "tokenizer.sample_lines=60", f"seed={seed}", f"store={name}")
        stores.append(Store(name).digest)
    assert stores[0] == stores[1] != stores[2]


def test_tsv_gives_the_same_tokens_as_two_files(run, data):
    pairs = zip(*((data / f"train.{side}").read_text().split("\n")[:-1] for side in ("de", "en")), strict=True)
    write(data, "train.tsv", ["\t".join(pair) for pair in pairs])
    run("train=train", SMALL, "store=out1")
    run("train=train.tsv", SMALL, "store=out2")
    one, two = files("out1"), files("out2")
    assert json.loads(one.pop("manifest.json"))["digest"] == json.loads(two.pop("manifest.json"))["digest"]
    assert one.pop("manifest.sha256") != two.pop("manifest.sha256")  # they name their corpora
    assert one == two


def test_several_corpora_are_joined_in_train_and_valid_and_kept_apart_in_test(run, data):
    words = ("train=train,valid", "valid=[valid,test]", "test=test,valid,train", SMALL, "format=json")
    code, out, _ = run(*words)
    assert code == 0
    splits = json.loads(out)["splits"]
    assert {name: split["pairs"] for name, split in splits.items()} == {
        "train": 620, "valid": 30, "test": 10, "test1": 20, "test2": 600,
    }  # fmt: skip
    assert splits["train"]["corpora"] == [
        {"name": "train", "read": 600, "kept": 600},
        {"name": "valid", "read": 20, "kept": 20},
    ]
    joined = [line for name in ("valid", "test") for line in (data / f"{name}.de").read_text().split("\n")[:-1]]
    assert Store("out").split("valid").lines("source.text") == joined


FILTERED = [("a b", "1 2"), ("", "1"), ("a", ""), ("a " * 9, "1 " * 9), ("a b c d", "1"), ("a b c d e f g h", "1")]


def test_filters_drop_training_pairs_only_and_count_each_once(run, data):
    for number, side in enumerate(("de", "en")):
        for name in ("train", "valid"):
            write(data, f"{name}.{side}", [pair[number].strip() for pair in FILTERED])
    words = (
        "tokenizer=words",
        "filter.max_length=7",
        "filter.max_ratio=3.5",
        "format=json",
        "train=train",
        "valid=valid",
    )
    code, out, _ = run(*words)
    assert code == 0
    train, valid = (json.loads(out)["splits"][name] for name in ("train", "valid"))
    assert (train["read"], train["pairs"]) == (6, 1)
    assert train["dropped"] == {"min_length": 2, "max_length": 2, "max_ratio": 1}
    assert (valid["read"], valid["pairs"], valid["dropped"]) == (6, 6, {})
    store = Store("out")
    assert store.split("train").lengths("source.tokens").tolist() == [2]
    assert store.split("valid").lengths("source.tokens").tolist() == [2, 0, 1, 9, 4, 8]
    assert store.split("valid").lines("target.text")[:3] == ["1 2", "1", ""]


lengths = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30)


@given(lengths, st.integers(0, 4), st.integers(1, 9), st.none() | st.floats(1, 5))
def test_selection_equals_the_slow_obvious_one(pairs, low, high, ratio):
    keep, dropped = select(np.array(pairs, int).reshape(-1, 2).T, FilterConfig(low, high, ratio))
    for (source, target), kept in zip(pairs, keep, strict=True):
        short, long = sorted((source, target))
        assert kept == (short >= low and long <= high and (ratio is None or long <= ratio * short))
    assert sum(dropped.values()) + keep.sum() == len(pairs)


def test_the_report_counts_tokens_unknowns_and_characters(run, data):
    write(data, "train.de", ["a a b", "b a"])
    write(data, "train.en", ["x", "x y"])
    write(data, "valid.de", ["a c", "c"])
    write(data, "valid.en", ["x", "x"])
    code, out, _ = run("train=train", "valid=valid", "tokenizer=words", "format=json")
    assert code == 0
    report = json.loads(out)
    assert report["splits"]["train"]["source"] == {
        "tokens": 5, "unknown": 0, "characters": 8, "unknown_rate": 0.0, "characters_per_token": 1.6,
        "lengths": {"50%": 2, "90%": 3, "99%": 3, "max": 3}, "histogram": {"tokens": 1, "lines": [0, 0, 1, 1]},
    }  # fmt: skip
    assert report["splits"]["train"]["premium"] == {
        "target_over_source": round((1 / 3 + 1) / 2, 4), "source_over_target": 2.0, "pairs": 2,
    }  # fmt: skip
    assert report["splits"]["valid"]["premium"]["pairs"] == 0  # too much of it is unknown
    assert report["splits"]["valid"]["source"]["unknown_rate"] == 0.666667
    assert report["vocabularies"]["source"]["size"] == 6
    assert report["seconds"] >= 0
    assert report["digest"] == Store("out").digest


def test_the_table_names_what_was_dropped_and_why(run, data):
    write(data, "train.de", ["a b", "", "a b c"])
    write(data, "train.en", ["x", "x", "x"])
    code, out, err = run("train=train", "valid=valid", "tokenizer=words", "filter.max_length=2")
    assert code == 0
    assert err.count("warning: valid, ") == 2  # of other words
    rows = [line.split() for line in out.split("\n")]
    assert ["train", "3", "1", "1", "by", "min_length,", "1", "by", "max_length"] in rows
    assert ["valid", "20", "20", "0"] in rows
    assert ["train", "de", "2", "0.00%", "1.50", "2", "2", "2", "2"] in rows


def test_the_report_lies_in_the_store_as_text_and_picture_but_is_no_part_of_its_content(run, data):
    code, out, err = run(*SPLITS, SMALL, "filter.max_length=20")
    assert (code, err) == (0, "")
    head, _, rest = out.partition("\n")
    assert head.startswith("out: de to en, ")
    assert (data / "out" / "report.txt").read_text() == rest.partition("\nrepeated examples\n")[0]
    assert not {"report.txt", "report.png"} & set(Store("out").manifest["files"])
    with Image.open(data / "out" / "report.png") as image:
        assert image.size[0] > 1000
    for name in ("report.txt", "report.png"):
        (data / "out" / name).unlink()
    Store("out").verify()


def test_a_picture_that_cannot_be_drawn_is_told_and_costs_no_store(run, data, monkeypatch):
    def fail(*_):
        raise OSError("no colours")

    monkeypatch.setattr("s2s.data.picture.draw", fail)
    code, _, err = run("train=train", SMALL)
    assert (code, err.count("\n")) == (1, 1)
    assert "out: the store is complete, but its report.png could not be drawn: OSError: no colours" in err
    Store("out").verify()
    assert (data / "out" / "report.txt").is_file()


def test_sides_can_have_tokenizers_of_their_own(run):
    words = ("source_tokenizer=characters", "target_tokenizer=words", "target_tokenizer.vocab_size=8")
    assert run("train=train", *words)[0] == 0
    source, target = Store("out").tokenizers().values()
    assert (source.config.type, target.config.type, len(target.vocabulary)) == ("characters", "words", 8)
    assert not shared(Store("out"))
    assert run("train=train", "tokenizer.vocab_size=26", "target_tokenizer=bytes", "overwrite=true")[0] == 0
    assert [tokenizer.config.type for tokenizer in Store("out").tokenizers().values()] == ["sentencepiece", "bytes"]


@pytest.mark.parametrize(("kind", "joint"), [("sentencepiece", "false"), ("words", "true"), ("characters", "true")])
def test_joint_says_whether_the_sides_share_a_vocabulary(run, kind, joint):
    extra = ["tokenizer.vocab_size=28"] if kind == "sentencepiece" else []
    assert run("train=train", f"tokenizer={kind}", f"tokenizer.joint={joint}", *extra)[0] == 0
    source, target = Store("out").tokenizers().values()
    assert (source is target) == (joint == "true") == shared(Store("out"))
    if kind == "words":
        assert {"Wald", "wood"} <= set(source.vocabulary.symbols)


def test_bytes_are_always_shared(run):
    code, _, err = run("train=train", "tokenizer=bytes", "tokenizer.joint=false")
    assert (code, "tokenizer.joint" in err) == (2, True)
    assert run("train=train", "tokenizer=bytes")[0] == 0
    assert shared(Store("out"))


def test_another_stores_tokenizers_are_reused_also_in_the_other_direction(run, data):
    assert run("train=train", "tokenizer=words", "store=first")[0] == 0
    for name in ("valid.de", "valid.en"):
        (data / name).write_text((data / name).read_text() + "unseen words\n")
    assert run("test=valid", "tokenizer_from=first")[0] == 0
    first, second = Store("first").manifest, Store("out").manifest
    assert second["vocabularies"] == first["vocabularies"]
    assert Store("out").splits == ["test"]
    assert run("test=valid", "tokenizer_from=first", "source=en", "target=de", "store=turned")[0] == 0
    turned = Store("turned").manifest["vocabularies"]
    assert (turned["source"], turned["target"]) == (first["vocabularies"]["target"], first["vocabularies"]["source"])


def test_a_given_model_needs_no_training_corpus(run, data):
    run("train=train", SMALL, "store=first")
    assert run("test=valid", "tokenizer.model=first/source.spm.model")[0] == 0
    assert Store("out").manifest["vocabularies"] == Store("first").manifest["vocabularies"]


def test_text_of_the_training_split_is_kept_when_asked_for(run, data):
    assert run("train=train", SMALL, "keep_text=true")[0] == 0
    assert Store("out").split("train").lines("target.text") == (data / "train.en").read_text().split("\n")[:-1]


def test_text_of_the_training_split_is_kept_for_a_tokenizer_that_samples(run, data):
    for algorithm in ("unigram", "bpe"):
        words = (SMALL, "tokenizer.sampling=0.1", f"tokenizer.algorithm={algorithm}", "overwrite=true")
        assert run("train=train", *words)[0] == 0
        store = Store("out")
        assert [tokenizer.sampling for tokenizer in store.tokenizers().values()] == [0.1, 0.1]
        assert store.split("train").lines("source.text") == (data / "train.de").read_text().split("\n")[:-1]


def test_raw_text_is_kept_raw_and_tokens_are_normalised(run, data):
    write(data, "valid.de", ["A\u0308 HÄUSER\r", "ﬁ"])
    write(data, "valid.en", ["x", "y"])
    words = ("tokenizer=characters", "tokenizer.lowercase=true", "tokenizer.normalization=nfkc")
    assert run("train=train", "valid=valid", *words)[0] == 0
    split, (source, _) = Store("out").split("valid"), Store("out").tokenizers().values()
    assert split.lines("source.text") == ["A\u0308 HÄUSER", "ﬁ"]
    assert source.decode(split.row("source.tokens", 0)) == "ä häuser"


# Streams


def tsv(data: Path, name: str) -> str:
    pairs = zip(*((data / f"{name}.{side}").read_text().split("\n")[:-1] for side in ("de", "en")), strict=True)
    return "".join("\t".join(pair) + "\n" for pair in pairs)


@pytest.mark.parametrize("workers", [1, 2])
def test_standard_input_gives_the_store_that_a_file_gives(run, data, workers):
    write(data, "train.tsv", tsv(data, "train").split("\n")[:-1])
    assert run("train=train.tsv", "valid=valid", "tokenizer=bytes", "store=expected")[0] == 0
    process = start(data, "train=-", "valid=valid", "tokenizer=bytes", f"workers={workers}", stdin=subprocess.PIPE)
    _, err = process.communicate(tsv(data, "train"), timeout=60)
    assert (process.returncode, err) == (0, "")
    assert Store("out").digest == Store("expected").digest
    assert Store("out").split("train").corpora[0].name == "-"


def test_process_substitution_and_named_pipes_give_the_store_that_files_give(run, data):
    run("train=train", SMALL, "store=first")
    assert run(*SPLITS, "tokenizer_from=first", "store=expected")[0] == 0
    write(data, "train.tsv", tsv(data, "train").split("\n")[:-1])
    script = (
        "mkfifo pipe.de pipe.en; cat valid.de > pipe.de & cat valid.en > pipe.en & "
        f"{sys.executable} -m s2s_cli.preprocess source=de target=en store=out tokenizer_from=first "
        "train=<(cat train.tsv) valid=pipe test=<(paste test.de test.en)"
    )
    done = subprocess.run(["bash", "-c", script], cwd=data, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert Store("out").digest == Store("expected").digest


@pytest.mark.parametrize("tokenizer", ["sentencepiece", "characters", "words"])
@pytest.mark.parametrize("train", ["-", "train,-", "pipe"])
def test_a_tokenizer_cannot_learn_from_a_stream_and_nothing_of_it_is_read(run, data, train, tokenizer):
    os.mkfifo(data / "pipe")  # to open it would be to wait for ever
    code, out, err = run(f"train={train}", f"tokenizer={tokenizer}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    name = train.rpartition(",")[2]
    assert f"train={name}: a pipe can be read only once" in err
    for remedy in ("tokenizer_from=STORE", "tokenizer.model=FILE", "tokenizer.vocabulary=FILE", "tokenizer=bytes"):
        assert remedy in err
    assert_nothing_written(data)


def test_a_given_vocabulary_or_model_takes_a_stream(run, data):
    write(data, "words", sorted({word for line in tsv(data, "train").split("\n") for word in line.split()}))
    run("train=train", SMALL, "store=first")
    for choice in (["tokenizer=words", "tokenizer.vocabulary=words"], ["tokenizer.model=first/source.spm.model"]):
        process = start(data, "train=-", *choice, "overwrite=true", stdin=subprocess.PIPE)
        out, err = process.communicate(tsv(data, "train"), timeout=60)
        assert (process.returncode, err) == (0, "")
        assert "600" in out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\tb\nc\n", "standard input:2: a row must have two columns"),
        ("", "standard input:1: the corpus is empty"),
        ("a\tb\n\udcff\n", "standard input:2: invalid UTF-8"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_stream_is_one_line_and_leaves_nothing(data, text, message, workers):
    process = start(data, "train=-", "tokenizer=bytes", f"workers={workers}", stdin=subprocess.PIPE,
                    errors="surrogateescape")  # fmt: skip
    out, err = process.communicate(text, timeout=60)
    assert (process.returncode, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert_nothing_written(data)


def test_standard_input_is_not_for_two_splits(run, data):
    code, _, err = run("train=-", "test=test,-", "tokenizer=bytes")
    assert (code, "-: would be read twice" in err) == (2, True)
    assert_nothing_written(data)


# Bad input


def bad(data: Path, name: str, content: dict[str, bytes]) -> None:
    for side, text in content.items():
        (data / f"{name}.{side}").write_bytes(text)


MISTAKES = {
    "line counts": ({"de": b"a\nb\n", "en": b"x\n"}, [], "bad.en:1: the file ends here"),
    "line counts, other side": ({"de": b"a\nb\n", "en": b"x\n" * 5}, [], "bad.de has 2, bad.en has 5"),
    "missing side": ({"de": b"a\n"}, [], "bad.en: no such file"),
    "missing corpus": ({}, [], "bad.de and bad.en: no such file"),
    "invalid UTF-8": ({"de": b"a\nb\xffc\n", "en": b"x\ny\n"}, [], "bad.de:2: invalid UTF-8"),
    "invalid UTF-8, other side": ({"de": b"a\nb\n", "en": b"\xc3\ny\n"}, [], "bad.en:1: invalid UTF-8"),
    "empty corpus": ({"de": b"", "en": b""}, [], "bad.de:1: the corpus is empty"),
    "all filtered away": (
        {"de": b"a\n" * 9, "en": b"x y\n" * 9},
        ["filter.min_length=2"],
        "the filters drop all 9 pairs",
    ),
}


# Found while learning; found while writing, in this process or in a worker.
@pytest.mark.parametrize(("tokenizer", "workers"), [("words", 1), ("bytes", 1), ("bytes", 2)])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_bad_training_corpus_is_one_line_and_leaves_nothing(run, data, mistake, workers, tokenizer):
    content, words, message = MISTAKES[mistake]
    bad(data, "bad", content)
    train = "train=bad" if mistake == "all filtered away" else "train=train,bad"
    code, out, err = run(train, f"tokenizer={tokenizer}", f"workers={workers}", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert_nothing_written(data)


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("mistake", [name for name in MISTAKES if name != "all filtered away"])
def test_a_bad_validation_or_test_corpus_is_one_line_and_leaves_nothing(run, data, mistake, split):
    content, _, message = MISTAKES[mistake]
    bad(data, "bad", content)
    code, out, err = run("train=train", SMALL, f"{split}=bad", "workers=2")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert_nothing_written(data)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tokenizer.vocab_size=70000"], "tokenizer (source and target): vocab_size=70000 is too large: the most that"),
        (["tokenizer.joint=false", "tokenizer.vocab_size=33"], "tokenizer (target): vocab_size=33 is too large"),
        (
            ["tokenizer=words", "target_tokenizer=sentencepiece"],
            "target_tokenizer (target): vocab_size=8000 is too large",
        ),
        (["tokenizer.vocab_size=9"], "tokenizer (source and target): vocab_size=9 is too small"),
        (["tokenizer=wrods"], "tokenizer=wrods: no such preset; did you mean 'words'?"),
        (["tokenizer.vocab_sise=70"], "unknown key 'tokenizer.vocab_sise'; did you mean 'tokenizer.vocab_size'?"),
        (["tokenizer=words", "tokenizer.sampling=0.1"], "unknown key 'tokenizer.sampling'"),
        (["tokenizer.sampling=1.5"], "tokenizer.sampling=1.5: must be at most 1"),
        (["tokenizer.model=nowhere"], "nowhere: no such SentencePiece model file"),
        (["tokenizer=words", "tokenizer.vocabulary=nowhere"], "nowhere: no such vocabulary file"),
        (["tokenizer_from=nowhere"], "nowhere: no such store"),
        (["tokenizer_from=other", "tokenizer=words"], "exclude each other"),
        (["tokenizer.vocab_size=2000000000"], "tokenizer.vocab_size=2000000000: must be at most 16,777,216"),
        (["tokenizer.model=test.de"], "test.de: not a SentencePiece model"),
        (["tokenizer.model=valid", "tokenizer.vocab_size=48"], "vocab_size=48: does nothing beside model=valid"),
        (
            ["tokenizer=words", "tokenizer.min_count=5000"],
            "tokenizer (source): the training text has no symbol that is there min",
        ),
        (["workers=0"], "workers=0: must be at least 1"),
        (["workers=1000000000"], "workers=1000000000: must be at most 1,024"),
        (["seed=-1"], "seed=-1: must be at least 0"),
        (["seed=9223372036854775808"], "seed=9223372036854775808: must be at most 9,223,372,036,854,775,807"),
        (["store=null"], "store= is required"),
        (["train=null"], "train"),
        (["train=[]"], "no corpus"),
        (["train=[]", "test=test"], "train= is required"),
    ],
)
def test_bad_settings_are_one_line_and_leave_nothing(run, data, words, message):
    code, out, err = run("train=train", *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert_nothing_written(data)


def test_a_place_that_is_taken_is_refused_before_any_work(run, data):
    assert run("train=train", SMALL)[0] == 0
    before = files("out")
    code, _, err = run("train=missing-if-read", SMALL)
    assert code == 2
    code, _, err = run("train=train", SMALL)
    assert (code, "overwrite=true" in err) == (2, True)
    assert files("out") == before
    assert run("train=train", "tokenizer=bytes", "overwrite=true")[0] == 0
    (data / "mine").mkdir()
    (data / "mine" / "notes").write_text("x")
    code, _, err = run("train=train", SMALL, "store=mine", "overwrite=true")
    assert (code, "not a store" in err) == (2, True)
    assert (data / "mine" / "notes").read_text() == "x"


def test_a_failed_overwrite_keeps_the_old_store(run, data):
    run("train=train", SMALL)
    before = files("out")
    bad(data, "bad", {"de": b"a\nb\xff\n", "en": b"x\ny\n"})
    assert run("train=bad", "tokenizer=bytes", "overwrite=true")[0] == 2
    assert files("out") == before


def die(*_):
    os._exit(9)


def test_a_worker_that_dies_is_a_failure_not_a_hang(run, data, monkeypatch):
    monkeypatch.setattr("s2s.data.preprocess.encode", die)
    code, _, err = run("train=train", "tokenizer=bytes", "workers=2")
    assert (code, "a worker process died" in err) == (1, True)
    assert_nothing_written(data)
    assert issubclass(Failure, Exception)


# The real command, in a process of its own


def start(folder: Path, *words: str, **options) -> subprocess.Popen:
    command = [*COMMAND, "source=de", "target=en", "store=out", *words]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def heed_interrupts():
    """As in a foreground shell: what a shell starts in the background, tests perhaps, ignores Ctrl-C from birth."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def limit_files_to_100_kb():
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_one_line_and_leaves_nothing(data, workers):
    for side in ("de", "en"):
        write(data, f"big.{side}", ["x" * 50] * 4000)
    process = start(data, "train=big", "tokenizer=bytes", f"workers={workers}", preexec_fn=limit_files_to_100_kb)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert "train-00000.source.tokens: File too large" in err
    assert err.count("\n") == 1
    assert_nothing_written(data)


def partial_folder(folder: Path) -> bool:
    return any(path.name == ".partial-out" for path in folder.iterdir())


def stalled(data: Path, workers: int) -> subprocess.Popen:
    """The command in the middle of writing: its second corpus is a named pipe that nobody fills."""
    os.mkfifo(data / "slow.de")
    os.mkfifo(data / "slow.en")
    process = start(data, "train=train,slow", "tokenizer=bytes", f"workers={workers}", start_new_session=True,
                    preexec_fn=heed_interrupts)  # fmt: skip
    wait_for_writing(data, process)
    return process


def wait_for_writing(data: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 30
    while not partial_folder(data):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_leaves_nothing_half_written(data, workers, number, code):
    process = stalled(data, workers)
    if number == signal.SIGINT:  # Ctrl-C reaches the whole group, the workers too
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code
    assert "Traceback" not in err
    assert_nothing_written(data)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("fed", ["", "a\tb\n" * 200_000])  # in the first read, or in the middle of writing
def test_an_interrupt_while_standard_input_is_awaited_leaves_nothing(data, workers, fed):
    process = start(data, "train=-", "tokenizer=bytes", f"workers={workers}", start_new_session=True,
                    stdin=subprocess.PIPE, preexec_fn=heed_interrupts)  # fmt: skip
    process.stdin.write(fed)
    process.stdin.flush()
    wait_for_writing(data, process)
    os.killpg(process.pid, signal.SIGINT)
    process.wait(timeout=120)  # the writer of the pipe still holds it open
    assert process.returncode == 130
    assert process.communicate()[1] == "s2s-preprocess: interrupted\n"
    assert_nothing_written(data)


def alive(group: int) -> bool:
    """Whether a process of a group runs (and is not only waiting to be reaped)."""
    states = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True, check=True).stdout
    return any(
        line.split()[0] == str(group) and not line.split()[1].startswith("Z") for line in states.split("\n")[1:-1]
    )


def test_workers_end_when_the_command_is_killed(data):
    process = stalled(data, 2)
    process.kill()
    process.communicate(timeout=120)
    deadline = time.monotonic() + 30
    while alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_starting_imports_no_torch():
    code = "import sys, s2s_cli.preprocess; print({'torch', 'hydra', 'tqdm', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_whole_run_imports_no_torch(data):
    code = "import sys; from s2s_cli.preprocess import main; main(); print('torch' in sys.modules)"
    words = ["source=de", "target=en", "train=train", SMALL, "store=out", "workers=1"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=data, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("False")


def test_memory_does_not_grow_with_the_corpus(data):
    """Ten times the text, the same peak to a few megabytes."""
    code = (
        "import resource; from s2s_cli.preprocess import main; main();"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for times in (1, 10):
        for side in ("de", "en"):
            (data / f"big.{side}").write_text((data / f"train.{side}").read_text() * 30 * times)
        words = ["source=de", "target=en", "train=big", "tokenizer=bytes", f"store=out{times}", "workers=1"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=data, capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)  # MiB
    assert peaks[1] < peaks[0] + 10


def test_text_that_the_vocabulary_does_not_know_is_told(run, data):
    write(data, "words", ["THE", "HOUSE", "OVER", "GREEN", "WOOD", "DOG", "RUNS", "STREET", ".", ","])
    options = ("source=en", "target=en", "tokenizer=words", "tokenizer.vocabulary=words", "workers=2")
    code, _, err = run("test=test", *options)
    assert code == 0
    assert err.startswith("warning: test, en: 77% of the tokens are unknown, such as 'over', 'dog', 'green': ")
    assert err.count("the vocabulary has them in upper case") == 2
    assert Store("out").manifest["splits"]["test"]["source"]["unknown_rate"] > 0.5
    write(data, "words", ["Haus"])
    code, _, err = run(*SPLITS, *options, "overwrite=true")
    assert code == 2
    assert "s2s-preprocess: error: train, en: 100% of the tokens are unknown" in err
    assert list(Store("out").manifest["splits"]) == ["test"]  # the store that was there is there
