"""What a run says: it may be lost, and ends nothing."""

import contextlib
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import threading
import time
from fcntl import ioctl

import pytest

from s2s.training import log as logs
from s2s.training import loggers
from s2s.training.log import RunLog
from s2s.training.report import Interval
from tests.training.disturbed import words
from tests.training.test_resume import same_bits


def test_a_log_that_cannot_be_written_ends_nothing(store, whole, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=6")) == 0
    for name in ("train.log", "metrics.jsonl"):
        (run / name).unlink()
        (run / name).symlink_to("/dev/full")
    capsys.readouterr()
    assert s2s("train", *words(store, run)) == 0
    said = capsys.readouterr().err
    for name in ("train.log", "metrics.jsonl"):
        assert said.count(f"warning: {name} of the run cannot be written: [Errno 28]") == 1
    same_bits(whole, run)


def test_after_a_line_that_was_cut_off_a_new_one_begins(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train"}\n{"kind": "tr')
    log = RunLog(tmp_path, 10, 0, [])
    log.metrics("valid", 1, {})
    log.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert lines[1] == '{"kind": "tr'
    assert json.loads(lines[2])["kind"] == "valid"


def test_a_log_that_was_deleted_begins_anew_and_one_that_cannot_is_told_once(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    log = RunLog(run, 10, 0, [])
    log.metrics("train", 1, {})
    (run / "metrics.jsonl").unlink()
    log.metrics("train", 2, {})
    assert json.loads((run / "metrics.jsonl").read_text())["update"] == 2
    (run / "metrics.jsonl").unlink()
    (run / "train.log").unlink()
    run.rmdir()
    for update in (3, 4):
        log.metrics("train", update, {})
        log.line(f"line {update}")
    run.mkdir()
    log.metrics("train", 5, {})
    log.line("line 5")
    log.close()
    assert json.loads((run / "metrics.jsonl").read_text())["update"] == 5
    assert (run / "train.log").read_text().endswith(" line 5\n")
    said = capsys.readouterr().err
    for name in ("train.log", "metrics.jsonl"):
        assert said.count(f"warning: {name} of the run cannot be written: [Errno 2]") == 1
    assert said.count("line ") == 3


def test_a_logger_of_any_errors_ends_nothing(store, whole, tmp_path, s2s, capsys, monkeypatch):
    """Libraries fail in their own ways, at the end too."""

    def fails(*args):
        raise RuntimeError("no route to host")

    monkeypatch.setattr(loggers.TensorBoard, "add", fails)
    monkeypatch.setattr(loggers.TensorBoard, "close", fails)
    assert s2s("train", *words(store, tmp_path / "run")) == 0
    said = capsys.readouterr().err
    assert said.count("warning: tensorboard of the run cannot be written: RuntimeError: no route to host") == 1
    same_bits(whole, tmp_path / "run")


def test_lines_have_the_session_they_belong_to(store, tmp_path, s2s):
    run = tmp_path / "run"
    for updates in (9, 12):
        assert s2s("train", *words(store, run, f"train.max_updates={updates}")) == 0
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kinds = {number: [e["kind"] for e in events if e["session"] == number] for number in (1, 2)}
    assert sum(map(len, kinds.values())) == len(events)
    assert (kinds[1][0], kinds[1][-1]) == ("start", "end")
    assert (kinds[2][0], kinds[2][-1]) == ("resume", "end")


def test_a_terminal_that_hangs_holds_up_nothing(tmp_path, monkeypatch):
    """As an ssh connection that is lost, or Ctrl-S; when it is read on, what waited comes, and new lines."""
    there, here = pty.openpty()
    monkeypatch.setattr(sys, "stderr", os.fdopen(here, "w"))
    monkeypatch.setattr(logs, "PATIENCE", 0.2)
    log = RunLog(tmp_path, 5000, 0, [])
    began = time.monotonic()
    for number in range(3000):
        log.line(f"{number} {'x' * 100}")
        log.advance()
    assert time.monotonic() - began < 20
    assert (tmp_path / "train.log").read_text().count("\n") == 3000
    seen = b""
    while b"500 xxx" not in seen:
        seen += os.read(there, 65536)
    assert b"0 xxx" in seen
    deadline = time.monotonic() + 60
    while b"again" not in seen and time.monotonic() < deadline:
        log.line("again")  # it is lost too while as many lines wait as can
        if select.select([there], [], [], 0.05)[0]:
            seen += os.read(there, 65536)
    assert b"again" in seen
    assert b"2999 xxx" not in seen
    for number in range(3000):
        log.line(f"{number} {'x' * 100}")
    began = time.monotonic()
    log.close()
    assert time.monotonic() - began < 10
    os.close(there)


@pytest.mark.parametrize("how", ["2>&1 | head -3", "<&- >&- 2>&-", pytest.param("2>/dev/full", marks=pytest.mark.slow)])
def test_a_reader_that_goes_away_does_not_end_training(store, whole, tmp_path, how):
    run = tmp_path / "run"
    line = f'"$0" -m s2s_cli.train "$@" {how} > /dev/null; exit ${{PIPESTATUS[0]}}'
    line = line if "|" in how else f'"$0" -m s2s_cli.train "$@" {how}'
    done = subprocess.run(["bash", "-c", line, sys.executable, *words(store, run)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    same_bits(whole, run)


def test_a_bar_of_eighty_columns_has_loss_speed_and_time_left(tmp_path, monkeypatch):
    there, here = pty.openpty()
    ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = bytearray()

    def read():  # at once, because a terminal that is not read loses what is written
        with contextlib.suppress(OSError):
            while part := os.read(there, 65536):
                shown.extend(part)

    reader = threading.Thread(target=read)
    reader.start()
    monkeypatch.setattr(sys, "stderr", os.fdopen(here, "w"))
    log, interval = RunLog(tmp_path, 20_000, 1_000, []), Interval(started=time.perf_counter() - 0.1)
    line = " | ".join(["update 1100", *(f"field {number} of the line" for number in range(9))])
    for _ in range(100):
        interval.add({"source": 3, "target": 2}, 5.0, {}, 1.0)
        log.advance(1, interval.course)
        time.sleep(0.002)
    log.line(line)
    log.close()
    sys.stderr.close()  # ends the reader
    reader.join()
    os.close(there)
    parts = re.split(r"[\r\n]", shown.decode())
    bars = [part for part in parts if "%|" in part]
    assert re.search(r" 6%\|.*\| 1100/20000, loss 2\.500, [\d,]+ tokens/s, [\d:]+ left$", bars[-1])
    assert max(map(len, parts)) <= 80
    folded = [part for part in parts if "field" in part]
    assert len(folded) == 3
    assert " ".join(part.strip() for part in folded) == line
    assert (tmp_path / "train.log").read_text().endswith(f" {line}\n")  # in a file it stays one line


def test_lines_are_folded_between_their_fields():
    assert logs.folded("a | bb | cc\nd", 6) == "a | bb\n  | cc\nd"
    assert logs.folded("a | a very long field | c", 6) == "a\n  | a very long field\n  | c"
    assert logs.folded("no fields in this line", 6) == "no fields in this line"
