"""Corpora in tables: columns by number, header, key and field give the store of the plain files."""

import gzip
import json

import numpy as np
import pytest

from s2s.data.store import Store

PAIRS = [(f"ein haus {n}", f"a house {n}") for n in range(12)]
OPTIONS = ["tokenizer=characters", "workers=1"]


@pytest.fixture
def plain(tmp_path):
    """The pairs as two files; returns their prefix."""
    for side, ending in enumerate(("de", "en")):
        (tmp_path / f"plain.{ending}").write_text("".join(f"{pair[side]}\n" for pair in PAIRS))
    return tmp_path / "plain"


def lines(store, side):
    """The training text of a side of a store."""
    split = Store(str(store)).split("train")
    values, lengths = split.gather(f"{side}.text", np.arange(len(split)))
    return [part.tobytes().decode().removesuffix("\n") for part in np.split(values, np.cumsum(lengths)[:-1])]


@pytest.fixture
def texts(s2s, tmp_path, capsys):
    """texts(path, *words) is a store's training text, made from a path: (sources, targets); or the message."""

    def make(path, *words, expected=0):
        store = tmp_path / f"store{len(list(tmp_path.glob('store*')))}"
        where = ["source=de", "target=en", f"train={path}", f"store={store}", "keep_text=true"]
        code = s2s("preprocess", *where, *OPTIONS, *words)
        said = capsys.readouterr().err
        assert code == expected, said
        if expected:
            return said
        return [lines(store, side) for side in ("source", "target")]

    return make


def tables(folder):
    """The pairs in each kind of table, with the columns that say where they are."""
    numbered, named, objects = folder / "a.tsv", folder / "b.tsv", folder / "c.jsonl"
    numbered.write_text("".join(f"{target}\tx\t{source}\n" for source, target in PAIRS))
    named.write_text("id\tEnglish\tGerman\n" + "".join(f"1\t{target}\t{source}\n" for source, target in PAIRS))
    objects.write_text("".join(json.dumps({"de": s, "more": 3, "en": t}) + "\n" for s, t in PAIRS))
    nested, packed = folder / "d.jsonl", folder / "e.jsonl.gz"
    nested.write_text("".join(json.dumps({"translation": {"de": s, "en": t}}) + "\n" for s, t in PAIRS))
    packed.write_bytes(gzip.compress(objects.read_bytes()))
    return [
        (numbered, "columns=[3,1]"), (named, "columns=[German,English]"), (objects, "format=text"),
        (objects, "columns=[de,en]"), (nested, "columns=[translation.de,translation.en]"), (packed, "format=text"),
    ]  # fmt: skip


def test_each_table_gives_the_lines_of_the_plain_files(plain, texts, tmp_path):
    expected = texts(plain)
    assert expected[0] == [source for source, _ in PAIRS]
    for path, words in tables(tmp_path):
        assert texts(path, words) == expected, path


def test_parquet_and_saved_datasets(plain, texts, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import ipc, parquet

    expected = texts(plain)
    table = pyarrow.table({"de": [s for s, _ in PAIRS], "n": list(range(12)), "en": [t for _, t in PAIRS]})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=5)
    assert texts(tmp_path / "a.parquet") == expected
    nested = pyarrow.table({"translation": [{"de": s, "en": t} for s, t in PAIRS]})
    (tmp_path / "parts").mkdir()
    for number, start in enumerate((0, 7)):
        parquet.write_table(nested.slice(start, 7), tmp_path / f"parts/train-{number:05}.parquet")
    assert texts(tmp_path / "parts", "columns=[translation.de,translation.en]") == expected
    saved = tmp_path / "saved" / "train"  # as `save_to_disk` writes it
    saved.mkdir(parents=True)
    for number, start in enumerate((0, 4)):
        part = table.slice(start, (4, 8)[number])
        with ipc.new_stream(str(saved / f"data-{number}.arrow"), table.schema) as out:
            out.write_table(part)
    state = {"_data_files": [{"filename": "data-0.arrow"}, {"filename": "data-1.arrow"}], "_indices_files": None}
    (saved / "state.json").write_text(json.dumps(state))
    assert texts(saved) == expected
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    assert f"has several splits; choose one: {saved}" in texts(tmp_path / "saved", expected=2)
    (saved / "state.json").write_text(json.dumps({**state, "_indices_files": ["x"]}))
    assert "call flatten_indices() before save_to_disk" in texts(saved, expected=2)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 is not all of it")
    assert "bad.parquet: is damaged, or no file of this kind" in texts(tmp_path / "bad.parquet", expected=2)


@pytest.mark.parametrize(
    ("name", "content", "words", "message"),
    [
        ("a.tsv", "x\ty\n", "columns=[3,1]", "a.tsv:1: has 2 columns; columns= asks for column 3"),
        ("a.tsv", "x\ty\n", "columns=[de,x]", "a.tsv:1: no column is called 'de'; the header has x, y"),
        ("a.tsv", "x\ty\n", "columns=[0,1]", "columns=0,1: numbers from 1, or names of a header line"),
        ("a.tsv", "x\ty\n", "columns=[1]", "columns=1: 2 columns are needed, source, target"),
        ("a.jsonl", '{"de": "x", "en": "y"}\n{"de": "x"}\n', "format=text", "a.jsonl:2: no key 'en'; it has de"),
        ("a.jsonl", '{"de": "x", "en": 3}\n', "format=text", "a.jsonl:1: en: must be text, not 3"),
        ("a.jsonl", '{"de": "x",\n', "format=text", "a.jsonl:1: not a JSON object on one line"),
        ("a.jsonl", "[3]\n", "format=text", "a.jsonl:1: no key 'de'; it is no object"),
        ("a.jsonl", '{"de": "\\ud800", "en": "y"}\n', "format=text", "a.jsonl:1: de: half of a surrogate pair"),
        ("a.de", "x\n", "columns=[1,2]", "columns=1,2: does nothing without a table"),
    ],
)
def test_a_table_that_cannot_be_read_is_named_with_its_line(name, content, words, message, texts, tmp_path):
    (tmp_path / name).write_text(content)
    (tmp_path / "a.en").write_text("y\n")
    assert message in texts(tmp_path / name.removesuffix(".de"), words, expected=2)


def test_line_breaks_in_values_become_spaces(texts, tmp_path, monkeypatch):
    pairs = [("a\nb\r\nc", "d"), *PAIRS[1:]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"de": s, "en": t}) + "\n" for s, t in pairs))
    assert texts(tmp_path / "a.jsonl")[0][0] == "a b  c"


# --- filter.command, and repeated examples --------------------------------------------------------------------------


def test_a_command_decides_which_pairs_are_kept_and_they_are_counted(plain, s2s, tmp_path, capsys):
    command = 'awk -F "\\t" "{ print (\\$2 ~ /[37]$/) ? 0 : 1 }"'
    words = ["preprocess", "source=de", "target=en", f"train={plain}", f"valid={plain}", *OPTIONS, "keep_text=true"]
    assert s2s(*words, f"store={tmp_path / 'store'}", f"filter.command={command}", "format=json") == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["splits"]["train"]["read"], report["splits"]["train"]["pairs"]) == (12, 10)
    assert report["splits"]["train"]["dropped"]["command"] == 2
    assert report["splits"]["valid"]["pairs"] == 12
    store = Store(str(tmp_path / "store"))
    kept = [source for source, target in PAIRS if target[-1] not in "37"]
    assert lines(tmp_path / "store", "source") == kept
    assert "7" not in store.tokenizers()["source"].vocabulary.symbols  # it has learned from what is kept
    for command, message in (
        ("head -1 | sed s/.*/1/", "wrote 1 lines for 12 pairs"),
        ("sed s/.*/maybe/", "line 1 of its output is 'maybe\\n'; it must begin with 1 (keep) or 0 (drop)"),
        ("cat >/dev/null; exit 3", "it failed with exit code 3"),
    ):
        assert s2s(*words, f"store={tmp_path / 'other'}", f"filter.command={command}") == 2
        assert message in capsys.readouterr().err
    assert s2s(*(word for word in words if not word.startswith("train=")), f"store={tmp_path / 'other'}",
               f"filter.command={command}") == 2  # fmt: skip
    assert "filter.command= does nothing without train=" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_repeated_pairs_are_counted(s2s, tmp_path, capsys, monkeypatch):
    train = [*PAIRS, PAIRS[0], PAIRS[0], PAIRS[5]]
    test = [PAIRS[0], (PAIRS[1][0], "another"), ("new", "new"), PAIRS[0]]
    for name, pairs in (("train", train), ("test", test)):
        for side, ending in enumerate(("de", "en")):
            (tmp_path / f"{name}.{ending}").write_text("".join(f"{pair[side]}\n" for pair in pairs))
    data = [f"train={tmp_path / 'train'}", f"test={tmp_path / 'test'}", f"store={tmp_path / 'store'}"]
    words = ["preprocess", "source=de", "target=en", *data, *OPTIONS, "format=json"]
    assert s2s(*words) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["repeated"] == {
        "train": {"examples": 15, "duplicates": 3, "exact": True},
        "test": {"examples": 4, "sources_in_train": 3, "pairs_in_train": 2},
    }
    assert s2s(*words[:-1], "overwrite=true") == 0
    assert capsys.readouterr().out.endswith(
        "repeated examples\ntrain: 3 of 15 pairs repeat an earlier one\n"
        "test: 2 of 4 pairs are also in the training data, and 3 sources\n"
    )
    assert list(json.loads(printed.out)["splits"]) == ["train", "test"]


def test_a_chunk_of_which_nothing_is_kept_repeats_nothing(plain, s2s, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("s2s.data.corpus.CHUNK_BYTES", 40)  # a few lines
    words = [f"train={plain}", f"store={tmp_path / 'store'}", *OPTIONS, "format=json"]
    command = 'awk "{ print (NR > 10) ? 1 : 0 }"'
    assert s2s("preprocess", "source=de", "target=en", *words, f"filter.command={command}") == 0
    assert json.loads(capsys.readouterr().out)["repeated"]["train"] == {"examples": 2, "duplicates": 0, "exact": True}


def test_many_pairs_are_sampled_in_bounded_memory(monkeypatch):
    from s2s.data import repeats

    monkeypatch.setattr(repeats, "LIMIT", 1000)
    counted = repeats.Repeats()
    for start in range(0, 20_000, 500):
        text = "\n".join(f"line {number % 15_000}" for number in range(start, start + 500))
        counted.add("train", repeats.hashes(text, text))
    facts = counted.facts()["train"]
    assert not facts["exact"]
    assert sum(map(len, counted._sample)) <= 1000
    assert facts["duplicates"] == pytest.approx(5000, rel=0.3)


def test_fields_of_parquet_with_dots_in_their_names_and_invalid_text(texts, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    sides = {"a.b": [s for s, _ in PAIRS], "c": [t for _, t in PAIRS]}
    parquet.write_table(pyarrow.table(sides), tmp_path / "dots.parquet")
    assert texts(tmp_path / "dots.parquet", "columns=[a.b,c]") == [*sides.values()]
    cells = pyarrow.array([b"x", b"\xff"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"de": cells, "en": ["y", "z"]}), tmp_path / "bytes.parquet")
    said = texts(tmp_path / "bytes.parquet", expected=2)
    assert f"{tmp_path}/bytes.parquet: row 1 or a later one: invalid UTF-8" in said
