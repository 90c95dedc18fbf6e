"""s2s-generate in several processes, and after it was killed: the output of one process that nobody disturbed."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest

from s2s.decoding.unfinished import Unfinished
from tests.decoding.generating import fails
from tests.training.conftest import Together, together  # noqa: F401
from tests.training.test_distributed import finished

FORMATS = {
    "text": [],
    "n-best": ["format=json", "decode.n_best=3", "alignment=true"],
    "tsv": ["format=tsv", "alignment=true", "decode.beam_size=2"],
    "samples": ["decode.search=sample", "decode.n_best=2", "format=json"],
    "scores": ["mode=score", "target={text}"],
    "prefixes": ["prefix={prefixes}"],
}


@pytest.fixture
def text(tmp_path) -> Path:
    rng = random.Random(3)
    lines = [" ".join(rng.choice("abcdefghij") for _ in range(rng.randint(0, 9))) for _ in range(60)]
    (tmp_path / "text").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "prefixes").write_text("".join(f"{line[:1]}\n" for line in lines))
    return tmp_path / "text"


def words(runs, text: Path, output: Path, *options: str) -> list[str]:
    options = [option.format(text=text, prefixes=text.parent / "prefixes") for option in options]
    return [f"checkpoint={runs[0]}", f"input={text}", f"output={output}", "decode.buffer=7", "device=cpu", *options]


class Killed(BaseException):
    """As if the process ended here."""


@pytest.fixture
def killing(monkeypatch):
    """killing(n) ends a command at its n-th write, flush, rename or deletion of a file, and leaves everything."""

    def arm(count: int) -> None:
        left = iter(range(count))

        def dying(plain):
            def call(*args, **options):
                if next(left, None) is None:
                    raise Killed
                return plain(*args, **options)

            return call

        for name in ("fsync", "rename", "truncate"):
            monkeypatch.setattr(os, name, dying(getattr(os, name)))
        for name in ("replace", "unlink", "write_bytes", "mkdir"):
            monkeypatch.setattr(Path, name, dying(getattr(Path, name)))
        monkeypatch.setattr(Unfinished, "_leave", lambda self, say: None)  # a killed process does not clean up

    return arm


@pytest.mark.parametrize(
    "case", [case if case in ("text", "scores") else pytest.param(case, marks=pytest.mark.slow) for case in FORMATS]
)
def test_killed_at_any_moment_no_line_is_lost_or_doubled(generate, runs, text, tmp_path, killing, monkeypatch, case):
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    assert generate(*words(runs, text, whole, *FORMATS[case]))[0] == 0
    rng, kills = random.Random(case), 0
    for _ in range(100):
        killing(rng.randint(0, 40))
        try:
            code, _, said = generate(*words(runs, text, output, *FORMATS[case]))
        except Killed:
            kills += 1
            monkeypatch.undo()
            assert not output.exists() or output.read_bytes() == whole.read_bytes()
            continue
        monkeypatch.undo()
        assert code == 0, said
        break
    assert kills > 0
    assert output.read_bytes() == whole.read_bytes()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".unfinished")]


def begun(generate, runs, text, output, killing, monkeypatch) -> None:
    """Decode some windows of the text."""
    killing(25)
    with pytest.raises(Killed):
        generate(*words(runs, text, output))
    monkeypatch.undo()
    assert json.loads((output.with_name(f".unfinished-{output.name}") / "state.json").read_text())["windows"] > 0


def test_it_goes_on_only_with_the_same_options_and_input(generate, runs, text, tmp_path, killing, monkeypatch):
    output = tmp_path / "hyp"
    begun(generate, runs, text, output, killing, monkeypatch)
    for change, part in (
        ("decode.beam_size=2", "decode.beam_size=5, now 2"),
        ("format=tsv", "format=text, now tsv"),
        (f"checkpoint={runs[1]}", "checkpoint="),
        ("decode.buffer=9", "decode.buffer=7, now 9"),
    ):
        fails(generate(*words(runs, text, output), change), part, "overwrite=true")
    lines = text.read_text().splitlines()
    text.write_text("\n".join(["a changed line", *lines[1:], ""]))
    code, _, said = generate(*words(runs, text, output))
    assert code == 2
    assert "s2s-generate: error: " in said
    assert "the input has changed" in said
    assert "overwrite=true" in said
    text.write_text("\n".join([*lines[:-1], "a j", ""]))  # what is not decoded yet may change
    code, _, said = generate(*words(runs, text, output))
    assert (code, "goes on after" in said) == (0, True)
    fresh = tmp_path / "fresh"
    assert generate(*words(runs, text, fresh))[0] == 0
    assert output.read_bytes() == fresh.read_bytes()


def test_overwrite_starts_anew(generate, runs, text, tmp_path, killing, monkeypatch):
    output, fresh = tmp_path / "hyp", tmp_path / "fresh"
    begun(generate, runs, text, output, killing, monkeypatch)
    code, _, said = generate(*words(runs, text, output, "decode.beam_size=1"), "overwrite=true")
    assert (code, "goes on" in said) == (0, False)
    assert generate(*words(runs, text, fresh, "decode.beam_size=1"))[0] == 0
    assert output.read_bytes() == fresh.read_bytes()


def test_an_interrupt_says_what_is_kept(generate, runs, text, tmp_path, monkeypatch):
    output, plain = tmp_path / "hyp", Unfinished.join

    def interrupt(self):
        there = plain(self)
        if self.state.windows == 3:
            monkeypatch.undo()
            raise KeyboardInterrupt
        return there

    monkeypatch.setattr(Unfinished, "join", interrupt)
    code, _, said = generate(*words(runs, text, output))
    assert code == 130
    assert "21 sentences are decoded; the same command goes on after them" in said
    code, _, said = generate(*words(runs, text, output))
    assert code == 0
    assert "21 sentences before" in said
    assert "\n39 sentences, " in said


def test_streams_are_refused_in_several_processes(generate, runs, text, tmp_path):
    several = f"checkpoint={runs[0]}", "distributed.processes=2"
    fails(generate(*several, f"output={tmp_path / 'hyp'}", stdin=b"a\n"), "several processes require input=FILE")
    fails(generate(*several, f"input={text}"), "output=FILE")


@pytest.fixture
def several(tmp_path):
    """several(processes, words) runs s2s-generate in processes of one group."""
    running = []

    def start(processes: int, argv: list[str], script: str = "") -> Together:
        running.append(Together(tmp_path, processes, argv, script, "generate"))
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.communicate()


@pytest.mark.parametrize("case", ["n-best", pytest.param("scores", marks=pytest.mark.slow)])
def test_several_processes_give_the_output_of_one(generate, runs, text, tmp_path, several, case):
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    assert generate(*words(runs, text, whole, *FORMATS[case]))[0] == 0
    said = finished(several(3, words(runs, text, output, *FORMATS[case])))
    assert output.read_bytes() == whole.read_bytes()
    assert said.count("sentences/s") == 1
    assert said.startswith("60 sentences, ")


@pytest.mark.slow
def test_small_inputs_are_divided_too_and_a_kill_loses_nothing(generate, runs, text, tmp_path, several):
    """Process 1 is killed in a window when others are saved; then a single process goes on."""
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    text.write_text(text.read_text() * 40)
    free = [word for word in words(runs, text, output) if "buffer" not in word]
    saved = tmp_path / ".unfinished-hyp/state.json"
    die = f"""
import os, pathlib, signal, time, s2s.decoding.unfinished as u
plain, saved = u.Piece.finish, pathlib.Path({str(saved)!r})
def finish(piece, number, *args):
    if os.environ["RANK"] == "0":
        time.sleep(60 if saved.exists() else 0.5)
    elif number:  # nothing is saved before window 0 is
        while not saved.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    plain(piece, number, *args)
u.Piece.finish = finish
"""
    process = several(2, free, die)
    _, said = process.communicate(timeout=120)
    assert process.returncode not in (0, None)
    assert "process 1 of 2" in said, said
    assert 1 <= json.loads(saved.read_text())["windows"] < 12
    code, _, said = generate(*free)
    assert (code, "goes on after" in said) == (0, True)
    assert generate(*free[:2], f"output={whole}")[0] == 0
    assert output.read_bytes() == whole.read_bytes()


def test_an_error_of_one_process_is_told_once(runs, text, several, tmp_path):
    text.write_bytes(text.read_bytes() + b"\xff\n")
    said = finished(several(2, words(runs, text, tmp_path / "hyp")), 2)
    lines = said.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("s2s-generate: error: ")
    assert f"{text}:61" in lines[0]


@pytest.mark.slow
def test_a_real_kill_of_the_launcher(generate, runs, text, tmp_path, spawn):
    """The launched processes end too; the repeated command goes on."""
    whole, output = tmp_path / "whole", tmp_path / "hyp"
    text.write_text(text.read_text() * 100)
    argv = [*words(runs, text, output), "decode.beam_size=20", "distributed.processes=2"]
    process = spawn("generate", *argv)
    state = tmp_path / ".unfinished-hyp/state.json"
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lock, until = tmp_path / ".hyp.lock", time.monotonic() + 30
    while lock.exists() and time.monotonic() < until:  # of rank 0, which notices that the launcher is gone
        time.sleep(0.1)
    process = spawn("generate", *argv)
    _, said = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "goes on after" in said
    assert generate(*words(runs, text, whole), "decode.beam_size=20")[0] == 0
    assert output.read_bytes() == whole.read_bytes()
