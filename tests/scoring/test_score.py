"""The `s2s-score` command as its users meet it: files in, lines or JSON out, one line for a mistake."""

import gzip
import json
import random
import signal
import subprocess
import sys
import time

import pytest

from s2s import __version__

HYPOTHESIS = "The cat sat on the mat .\nIt was raining.\nsame line here too\n"
REFERENCE = "The cat is sitting on the mat.\nIt rained.\nsame line here too\n"


@pytest.fixture
def run(s2s, standard_input, capsys):
    """Runs the command in this process; returns (exit code, standard output, standard error)."""

    def run(*words, stdin=b""):
        standard_input(stdin)
        return s2s("score", *words), *capsys.readouterr()

    return run


@pytest.fixture
def files(tmp_path):
    (tmp_path / "hyp").write_text(HYPOTHESIS)
    (tmp_path / "ref").write_text(REFERENCE)
    (tmp_path / "ref2").write_text(HYPOTHESIS)
    return tmp_path


def test_one_line_a_metric_with_its_signature(run, files):
    # is/sat, -sitting, mat./mat, +. and +was, rained./raining.
    code, out, err = run(f"hypothesis={files}/hyp", f"reference={files}/ref", "metrics=[wer,exact_match]")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"WER|nrefs:1|case:mixed|tok:space|norm:no|version:s2s-{__version__}"
        " = 46.15 (S = 3 D = 1 I = 2 ref_len = 13 wrong_lines = 2/3)",
        f"EM|nrefs:1|case:mixed|version:s2s-{__version__} = 33.33 (1/3 lines)",
    ]


def test_json_holds_value_signature_and_counts(run, files):
    words = [f"hypothesis={files}/hyp", f"reference=[{files}/ref,{files}/ref2]", "metrics=[bleu,chrf++,per]"]
    _, out, _ = run(*words, "format=json", "lowercase=true", "tokenizer=intl")
    content = json.loads(out)
    assert list(content) == ["bleu", "chrf++", "per"]
    assert content["bleu"]["value"] == pytest.approx(100)
    assert content["bleu"]["signature"].startswith("nrefs:2|case:lc|eff:no|tok:intl")
    assert content["per"]["counts"]["reference_length"] == 14
    assert content["per"]["higher_is_better"] is False
    code, nothing, _ = run(*words, "format=json", "lowercase=true", "tokenizer=intl", f"output={files}/scores.json")
    assert (code, nothing) == (0, "")
    assert (files / "scores.json").read_text() == out


def test_standard_input(run, files):
    code, out, _ = run("hypothesis=-", f"reference={files}/ref", "metrics=exact_match", stdin=REFERENCE.encode())
    assert code == 0
    assert "= 100.00 (3/3 lines)" in out


def test_only_newline_ends_a_line(run, files):
    """A line separator, a form feed or a lone carriage return inside a line does not shift the lines behind it."""
    (files / "hyp").write_bytes("a\u2028b\x0c\x85c\rd\r\nsecond".encode())
    (files / "ref").write_bytes("a\u2028b\x0c\x85c\rd\nsecond\n".encode())
    _, out, _ = run(f"hypothesis={files}/hyp", f"reference={files}/ref", "metrics=exact_match")
    assert "(2/2 lines)" in out


def test_compressed_reference(run, files):
    (files / "ref.gz").write_bytes(gzip.compress(REFERENCE.encode()))
    _, plain, _ = run(f"hypothesis={files}/hyp", f"reference={files}/ref", "metrics=[bleu,wer]")
    _, packed, _ = run(f"hypothesis={files}/hyp", f"reference={files}/ref.gz", "metrics=[bleu,wer]")
    assert packed == plain


def test_agrees_with_the_sacrebleu_command(run, files):
    words = [sys.executable, "-m", "sacrebleu", f"{files}/ref", "-i", f"{files}/hyp", "-m", "bleu", "chrf", "ter"]
    theirs = json.loads(subprocess.run([*words, "-w", "9"], capture_output=True, check=True, text=True).stdout)
    _, out, _ = run(f"hypothesis={files}/hyp", f"reference={files}/ref", "metrics=[bleu,chrf,ter]", "format=json")
    ours = list(json.loads(out).values())
    assert len(ours) == len(theirs) == 3
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine["name"], mine["signature"]) == (other["name"], other["signature"])
        assert mine["value"] == pytest.approx(other["score"], abs=1e-8)


def test_different_line_counts(run, files):
    (files / "short").write_text("one\ntwo\n")
    code, out, err = run(f"hypothesis={files}/hyp", f"reference=[{files}/ref,{files}/short]")
    assert (code, out) == (2, "")
    assert err == (f"s2s-score: error: {files}/hyp has 3 lines and {files}/short has 2; "
                   "line N of one belongs to line N of the other\n")  # fmt: skip


def test_invalid_utf8_names_file_and_line(run, files):
    (files / "bad").write_bytes(b"fine\nstill fine\nnot \xff fine\n")
    code, _, err = run(f"hypothesis={files}/bad", f"reference={files}/ref")
    assert code == 2
    assert err.startswith(f"s2s-score: error: {files}/bad:3: invalid UTF-8: byte 0xff")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("hypothesis={0}/none reference={0}/ref", "{0}/none: no such file"),
        ("hypothesis={0} reference={0}/ref", "{0}: is a folder"),
        ("hypothesis={0}/empty reference={0}/ref", "{0}/empty: is empty"),
        ("hypothesis={0}/hyp reference={0}/empty", "{0}/empty: is empty"),
        ("hypothesis=- reference={0}/ref", "standard input: is empty"),
        ("hypothesis=- reference=-", "can be read only once"),
        ("reference={0}/ref", "hypothesis= is missing"),
        ("hypothesis={0}/hyp", "reference= is missing"),
        ("hypothesis={0}/hyp reference={0}/ref metrics=[]", "metrics= is missing"),
        ("hypothesis={0}/hyp reference={0}/ref metrics=blue", "metrics=blue: choose one of bleu"),
        ("hypothesis={0}/hyp reference={0}/ref tokenizer=13b", "tokenizer=13b: choose one of 13a"),
        ("hypothesis={0}/hyp reference={0}/ref split=valid", "split=valid: does nothing without store"),
        ("hypothesis={0}/hyp reference={0}/ref metrics=wer tokenizer=char", "tokenizer=char requires metrics=[bleu]"),
        ("hypothesis={0}/hyp reference={0}/ref metric=bleu", "did you mean 'metrics'?"),
        ("hypothesis={0}/hyp reference={0}/ref output={0}/hyp", "is also an input"),
        ("hypothesis={0}/hyp reference={0}/ref output={0}/none/scores", "there is no folder"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, files, words, message):
    (files / "empty").write_bytes(b"")
    code, out, err = run(*words.format(files).split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert message.format(files) in err


def test_does_not_import_torch(files):
    """What starts in a quarter of a second must not come to import what takes seconds."""
    script = (
        "import sys; from s2s_cli import score\n"
        f"sys.argv = ['s2s-score', 'hypothesis={files}/hyp', 'reference={files}/ref',"
        " 'metrics=[bleu,chrf,chrf++,ter,wer,cer,per,ser,exact_match,token_accuracy]']\n"
        "score.main()\n"
        "print([name for name in ('torch', 'sentencepiece') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_alignment_of_very_long_lines(tmp_path, number):
    """One call of half a minute, which keeps the interpreter to itself."""
    rng = random.Random(1)
    for name in ("h", "r"):
        (tmp_path / name).write_text("".join(rng.choices("abcdefghij", k=300_000)) + "\n")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from s2s_cli.score import main; main()"
    words = [f"hypothesis={tmp_path}/h", f"reference={tmp_path}/r", "metrics=[cer]"]
    process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    time.sleep(2)
    process.send_signal(number)
    began = time.monotonic()
    out, _ = process.communicate(timeout=60)
    assert process.returncode in (-number, 128 + number)
    assert time.monotonic() - began < 8
    assert out == b""
