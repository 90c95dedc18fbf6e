"""The standard streams of commands as their users meet them: closed, full, left by their reader, in another locale; and
streams where files are meant. Commands run in a shell here, since what they are given is a shell's."""

import json
import os
import subprocess
import sys

import pytest

from s2s.config import streams
from s2s.errors import ReaderGone, UserError

HYPOTHESIS = "der Bär\nzwei “Hunde”\n"
REFERENCE = "der Bär\nzwei „Hunde“\n"
SCORE = "score hypothesis=hyp reference=ref metrics=[wer] worst=1"
PREPROCESS = "preprocess source=a target=b train=c tokenizer=characters store=store workers=1"


@pytest.fixture
def folder(tmp_path):
    for name, text in (("hyp", HYPOTHESIS), ("ref", REFERENCE), ("c.a", HYPOTHESIS), ("c.b", REFERENCE)):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def shell(folder):
    """shell("score hypothesis=hyp ...; echo $?") -> standard output and standard error; commands are without `s2s-`."""

    def call(line: str, **environment: str) -> tuple[str, str]:
        names = "\n".join(
            f'{name}() {{ "{sys.executable}" -m s2s_cli.{name} "$@"; }}' for name in ("score", "preprocess", "inspect")
        )
        done = subprocess.run(
            ["bash", "-c", f"{names}\n{line}"], cwd=folder, capture_output=True, check=False, timeout=60,
            env={**os.environ, **environment},
        )  # fmt: skip
        return done.stdout.decode(), done.stderr.decode()

    return call


def test_results_are_utf8_in_any_locale(shell):
    out, err = shell(f"{SCORE}; echo $?; {PREPROCESS}; echo $?", PYTHONIOENCODING="latin-1:strict")
    assert err == ""
    assert "REF: zwei „Hunde“\nHYP: zwei “Hunde”" in out
    assert "█" in out  # a bar of the report
    assert [line for line in out.splitlines() if line.isdigit()] == ["0", "0"]


NOISY = """
import dataclasses, sys, time, warnings
from s2s.config import command
from s2s.config.schema import option

@dataclasses.dataclass
class Config:
    file: str = option("", "file to write")

def work(config):
    time.sleep(0.3)  # until the reader is gone
    for _ in range(1000):
        print("progress ä", "x" * 100, file=sys.stderr)
    warnings.warn("a warning")
    open(config.file, "w").write("done")

command.run("noisy", Config, work, "")
"""


@pytest.mark.parametrize("lost", ["2>&-", "2>/dev/full", "2> >(true)"])
def test_progress_that_is_lost_is_not_lost_work(shell, folder, lost):
    (folder / "noisy.py").write_text(NOISY)
    out, _ = shell(
        f"{sys.executable} noisy.py file=finished {lost}; echo $?; cat finished; {SCORE} {lost} | grep -c REF"
    )
    assert out == "0\ndone1\n"
    assert shell(f"score hypothesis=absent reference=ref {lost}; echo $?")[0] == "2\n"


def test_a_full_standard_output_is_an_error_that_names_it(shell):
    for command in (SCORE, "score --help", PREPROCESS):
        out, err = shell(f"{command} > /dev/full; echo $?")
        assert out == "2\n"
        assert ": error: standard output: No space left on device" in err
        assert err.count("\n") == 1


def test_a_reader_of_results_that_leaves_ends_a_command_quietly_as_sigpipe_does(shell):
    assert shell(f"(sleep 0.1; {SCORE}; echo $? >&2) | true")[1] == "141\n"


def test_standard_output_may_be_closed_where_results_go_elsewhere(shell, folder):
    out, err = shell(f"{SCORE} >&-; echo $?; {SCORE} output=scores >&-; echo $?; grep -c REF scores")
    assert err == "s2s-score: error: standard output is closed, and the results would be lost\n"
    assert out == "2\n0\n1\n"
    # None of what is opened takes the number of a closed stream, which another part of the program would write to.
    shell(f"{PREPROCESS} <&- >&- 2>&-; echo $? > code; inspect store format=json > facts")
    assert (folder / "code").read_text() == "0\n"
    assert json.loads((folder / "facts").read_text())["damaged"] == []


def test_standard_input_that_is_closed_is_an_error(shell):
    for name in ("-", "/dev/stdin"):
        out, err = shell(f"score hypothesis={name} reference=ref <&-; echo $?")
        assert out == "2\n"
        assert err.startswith("s2s-score: error: ")
        assert "standard input is closed\n" in err or "standard input: is closed\n" in err


@pytest.mark.parametrize(
    ("words", "feed"),
    [
        ("hypothesis=- reference=ref", "< <(cat hyp)"),
        ("hypothesis=/dev/stdin reference=ref", "< hyp"),
        ("hypothesis=<(cat hyp) reference=<(cat ref) groups=<(cat hyp)", ""),
    ],
)
def test_a_stream_can_stand_for_a_file_to_read(shell, words, feed):
    out, err = shell(f"score {words} metrics=[wer] worst=1 {feed}")
    assert err == ""
    assert "wrong_lines = 1/2" in out
    assert ("zwei “Hunde” " in out) == ("groups" in words)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/proc/self/fd/1", ">(cat > {})", "/dev/fd/7"])
def test_a_stream_can_stand_for_a_file_to_write(shell, folder, name):
    expected = "WER|nrefs:1|case:mixed|tok:space|norm:no|version:s2s-"
    (folder / "before").write_text("before\n")
    to = "7>" if "7" in name else ">"
    shell(f"{SCORE} output={name.format('out')} {to} {'/dev/null' if '(' in name else 'out'}; sleep 0.1")
    assert (folder / "out").read_text().startswith(expected)
    # What is there stays, where a shell appends: the file is not replaced by another one.
    if "(" not in name:
        shell(f"{SCORE} errors={name} output=/dev/null {to}> before")
        assert (folder / "before").read_text().startswith("before\nline 2: ")


def test_a_stream_is_not_read_twice(shell):
    for words in (
        "hypothesis=- reference=-",
        "hypothesis=- reference=/dev/stdin",
        "hypothesis=ref reference=[fifo,fifo]",
    ):
        out, err = shell(f"mkfifo fifo; score {words} < hyp; echo $?")
        assert out == "2\n"
        assert "given twice, but a stream can be read only once" in err


def test_a_pipe_whose_reader_leaves_is_no_success_wherever_it_is_named(shell):
    assert shell(f"{SCORE} output=>(true) bootstrap=2000; echo $?") == ("141\n", "")


def test_an_output_that_cannot_be_written_names_the_file_and_leaves_nothing(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    (tmp_path / "out").write_text("old")
    with pytest.raises(OSError, match=str(tmp_path / "out")), streams.opened(str(tmp_path / "out")) as file:
        file.write(b"new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out": "old"}
    with (
        pytest.raises(UserError, match=r"errors=.*/no/out: there is no folder"),
        streams.opened(str(tmp_path / "no" / "out"), "errors"),
    ):
        pass


def test_output_waits_for_a_stream_that_does_not_block():
    """A terminal shared with a program that has made it so (ssh, node) is one."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    slow = "import sys, time; time.sleep(0.2); print(len(sys.stdin.read()))"
    process = subprocess.Popen([sys.executable, "-c", slow], stdin=read, stdout=subprocess.PIPE, text=True)
    os.close(read)
    with streams.opened(f"/dev/fd/{write}") as file:
        file.write(b"x" * 500_000)
    os.close(write)
    assert process.communicate()[0] == "500000\n"


def test_a_pipe_without_reader_is_told_apart_from_other_broken_pipes():
    read, write = os.pipe()
    os.close(read)
    with pytest.raises(ReaderGone), streams.opened(f"/dev/fd/{write}") as file:
        file.write(b"x")
    os.close(write)
