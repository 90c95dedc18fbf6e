"""What people get wrong first, through the commands: each is told, with what to write instead."""

import json

import pytest

from tests.conftest import _call
from tests.decoding.generating import SMALL


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        words = [f"store={store}", f"run={folder}", *SMALL, "train.max_updates=2"]
        assert _call(monkeypatch, "s2s_cli.train", *words) == 0
    return folder


@pytest.fixture
def fails(s2s, capsys):
    """fails(command, words) is the message of a command that ends with exit code 2."""

    def call(command, *words):
        capsys.readouterr()
        assert s2s(command, *words) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return call


def test_a_table_is_not_read_as_lines(fails, s2s, run, tmp_path, capsys):
    rows = [{"src": "a b", "tgt": "b a"}, {"src": "c", "tgt": "d"}]
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "x.tsv").write_text("a b\tb a\nc\td\n")
    (tmp_path / "one.tsv").write_text("a b\nc\n")
    (tmp_path / "x.parquet").write_bytes(b"PAR1")
    (tmp_path / "lines").write_text("a b\nc\n")
    generate = ["generate", f"checkpoint={run}", "device=cpu"]
    for name, way in (("x.jsonl", "jq -r .KEY"), ("x.parquet", "s2s-preprocess test="), ("x.tsv", "cut -f1")):
        path = tmp_path / name
        for key, words in (
            ("input", [*generate, f"input={path}"]),
            ("prefix", [*generate, f"input={tmp_path}/lines", f"prefix={path}"]),
            ("hypothesis", ["score", f"hypothesis={path}", f"reference={tmp_path}/lines"]),
            ("reference", ["score", f"hypothesis={tmp_path}/lines", f"reference=[{tmp_path}/lines,{path}]"]),
        ):
            said = fails(*words)
            assert f"{key}={path}: " in said
            assert way in said
    assert s2s(*generate, f"input={tmp_path}/one.tsv") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_header_that_becomes_a_pair_is_told(s2s, tmp_path, capsys):
    pairs = [f"ein haus {n}\ta house {n}\n" for n in range(12)]
    words = ["source=de", "target=en", "tokenizer=characters", "workers=1", "overwrite=true", f"store={tmp_path}/store"]
    for header, columns, warned in (
        ("de\ten\n", [], "columns=[de,en]"),
        ("src\ttgt\n", ["columns=[2,1]"], "columns=[tgt,src]"),
        ("Source\tTarget\n", ["columns=[1,2]"], "columns=[Source,Target]"),
        ("id\tscore\tde\ten\n", ["columns=[3,4]"], "columns=[de,en]"),
        ("src\ttgt\n", ["columns=[src,tgt]"], None),
        ("", ["columns=[1,2]"], None),
        ("text\ttext\n", [], None),  # the same word in two languages
    ):
        rows = [f"1\t2\t{pair}" for pair in pairs] if header.startswith("id") else pairs
        (tmp_path / "x.tsv").write_text(header + "".join(rows))
        assert s2s("preprocess", f"train={tmp_path}/x.tsv", *words, *columns) == 0
        said = capsys.readouterr().err
        assert ("looks like a header" in said) == (warned is not None)
        assert (warned or "") in said
        assert said.count("looks like a header") <= 1


def test_text_of_unknown_symbols_is_told(s2s, run, tmp_path, capsys, standard_input):
    def says(text):
        (tmp_path / "in").write_text(text)
        capsys.readouterr()
        assert s2s("generate", f"checkpoint={run}", f"input={tmp_path}/in", "device=cpu", "decode.beam_size=1") == 0
        return capsys.readouterr().err

    assert "unknown" not in says("a b c\n" * 5)
    assert "unknown" not in says("a b c d e f X\n" * 5)
    said = says("A B C\na\n" * 5)
    assert f"warning: {tmp_path}/in: 75% of the tokens are unknown, such as 'A', 'B', 'C': " in said
    assert "in lower case (tokenizer.lowercase=true)" in said
    said = says("A B C\n" * 1000)
    assert said.count("100% of the tokens are unknown") == 1
    standard_input(b"X Y\n")
    assert s2s("generate", f"checkpoint={run}", "device=cpu") == 0
    assert "warning: standard input: 100% of the tokens are unknown" in capsys.readouterr().err
