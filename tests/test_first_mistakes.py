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


def test_what_is_written_in_another_way(fails, s2s, run, store, tmp_path, capsys, monkeypatch):
    (tmp_path / "lines").write_text("a b\n")
    prefix = store.parent / "train"
    preprocess = ["preprocess", "source=src", "target=tgt", f"valid={prefix}", f"store={tmp_path}/new"]
    train = ["train", f"store={store}", f"run={tmp_path}/new", "model=transformer_tiny", "device=cpu"]
    for message, *words in (
        ("did you mean 'tokenizer.vocab_size'?", *preprocess, f"train={prefix}", "vocab_size=100"),
        (f"; give what the names of the files have in common, {prefix}\n", *preprocess, f"train={prefix}.src"),
        (f"; {tmp_path}/lines is a single file, and PREFIX stands for PREFIX.src and PREFIX.tgt\n", *preprocess,
         f"train={tmp_path}/lines"),
        ("the values of a sweep stand without brackets: seed=1,2\n", *train, "seed=[1,2]", "--multirun"),
        ("seed=[1,2]: a single value is needed; to train once with each of these values, add --multirun and write "
         "seed=1,2\n", *train, "seed=[1,2]"),
        ("seed=1,2: a single value is needed; to train once with each of these values, add --multirun\n", *train,
         "seed=1,2"),
        ("write data.batch_sentences=VALUE", *train, "train.batch_size=8"),
        ("metrics=BLEU: did you mean 'bleu'?", "score", f"hypothesis={tmp_path}/lines", f"reference={tmp_path}/lines",
         "metrics=[BLEU]"),
        ("did you mean 'transformer_tiny'?", *train, "model=Transformer_Tiny"),
        (f"unknown key 'checkpoint'; write s2s-inspect {run}, without a key", "inspect", f"checkpoint={run}"),
        (f"unknown key 'run'; write s2s-plot {run}, without a key", "plot", f"run={run}"),
        (f"unknown key 'run'; write s2s-report {run}, without a key", "report", f"run={run}"),
    ):  # fmt: skip
        assert message in fails(*words), words


def test_a_folder_of_runs_is_no_run(fails, run, tmp_path):
    folder = tmp_path / "sweep"
    for name in ("seed-1", "seed-2"):
        (folder / name).mkdir(parents=True)
        (folder / name / "run.json").write_text("{}")
    (tmp_path / "in").write_text("a\n")
    message = f"; it is a folder of runs (seed-1, seed-2): give one of them, such as {folder}/seed-1\n"
    for words in (["generate", f"checkpoint={folder}", f"input={tmp_path}/in"], ["inspect", folder], ["plot", folder],
                  ["report", folder], ["plot", "fit=scaling", folder, run, run]):  # fmt: skip
        assert fails(*words).endswith(message), words
    assert "folder of runs" not in fails("plot", tmp_path / "in")


def test_a_run_with_another_store_can_be_begun_anew(fails, s2s, run, store, tmp_path):
    words = ["preprocess", "source=src", "target=tgt", f"train={store.parent}/valid", "tokenizer=words", "workers=1"]
    assert s2s(*words, f"store={tmp_path}/other") == 0
    said = fails("train", f"store={tmp_path}/other", f"run={run}", *SMALL)
    assert f"data than store={tmp_path}/other; choose another run folder, or overwrite=true" in said


def test_texts_alone_are_for_their_task(fails, s2s, store, tmp_path):
    assert s2s("preprocess", "task=denoising", "target=tgt", f"train={store.parent}/valid", "tokenizer=words",
               "workers=1", f"store={tmp_path}/texts") == 0  # fmt: skip
    said = fails("train", f"store={tmp_path}/texts", f"run={tmp_path}/run", *SMALL)
    assert "it is made for task=denoising; s2s-train task=denoising trains on it" in said


def test_a_page_that_is_written_is_told(s2s, run, tmp_path, capsys):
    assert s2s("report", run, f"output={tmp_path}/page.html") == 0
    assert capsys.readouterr().err == f"{tmp_path}/page.html: a page about {run}\n"
    assert s2s("report", run) == 0
    assert capsys.readouterr().err == ""


def test_scoring_refuses_what_only_a_search_reads(fails, s2s, run, tmp_path, capsys):
    (tmp_path / "in").write_text("a b c\n")
    words = [
        "generate",
        f"checkpoint={run}",
        f"input={tmp_path}/in",
        f"target={tmp_path}/in",
        "device=cpu",
        "mode=score",
    ]

    def score(*more):
        capsys.readouterr()
        assert s2s(*words, *more) == 0
        return float(capsys.readouterr().out)

    for word in ("decode.beam_size=3", "decode.beam_size=5", "decode.search=sample", "decode.n_best=2", "seed=1",
                 "decode.no_repeat_ngram=2", "decode.max_length_b=50", "decode.stopping=exhaustive",
                 "decode.allow_unknown=true"):  # fmt: skip
        said = fails(*words, word)
        assert f"{word.partition('=')[0]}=: does nothing with mode=score" in said
        assert "length_penalty" in said
    plain = score()
    assert score("decode=fairseq") == plain  # a preset is no mistake
    assert score("decode.length_penalty=0") == pytest.approx(4 * plain, abs=1e-4)
    assert (
        len({plain, score("decode.temperature=2"), score("decode.word_reward=1"), score("decode.eos_scale=0.5")}) == 4
    )
    assert score("decode.batch_tokens=100", "decode.dtype=fp32", "decode.on_error=mark") == pytest.approx(
        plain, abs=1e-5
    )
