"""Several processes make one run: its losses, its checkpoints, its end, whatever their number."""

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import troubled
from tests.training.test_resume import same_bits, words

# Adam divides a gradient by its size: a bias of keys, whose gradient is 0 but for rounding, would go either way.
NO_NOISE = "optim.eps=1e-4"


def losses(run: Path) -> list[float]:
    """The loss of each update."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def state(run: Path) -> dict:
    return json.loads((run / "last/state.json").read_text())


def assert_one_run(first: Path, second: Path) -> None:
    """Two runs are the same to rounding: weights, optimizer, data position, metrics, all names and counts."""
    assert sorted(os.listdir(first / "last")) == sorted(os.listdir(second / "last"))
    for name in ("model.safetensors", "training.safetensors"):
        a, b = load_file(first / "last" / name), load_file(second / "last" / name)
        assert a.keys() == b.keys()
        for key in a:
            torch.testing.assert_close(a[key], b[key], rtol=1e-3, atol=1e-5)
    states = [state(run) for run in (first, second)]
    metrics = [one["progress"].pop("last_metrics") for one in states]
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4)
    for one in states:
        one["progress"].pop("seconds")
        one["progress"].pop("course", None)
        one["progress"]["epoch"].pop("waited", None)
    assert states[0]["progress"].pop("best") == pytest.approx(states[1]["progress"].pop("best"), rel=1e-4)
    assert states[0] == states[1]


def finished(process: subprocess.Popen, code: int = 0) -> str:
    """What a process has said on standard error; it ends with this exit code."""
    _, errors = process.communicate(timeout=240)
    assert process.returncode == code, errors
    return errors


def test_one_two_and_four_processes_make_the_same_run(store, tmp_path, s2s, together):
    """The same batches make an update; dropout and validation are the same too."""
    options = ["data.group=4", "train.log_updates=1", "train.valid_metrics=[loss,chrf]", "train.ema=0.9", NO_NOISE]
    one, two, four = (tmp_path / name for name in ("one", "two", "four"))
    assert s2s("train", *words(store, one, *options, "train.accumulate=4")) == 0
    finished(together(2, store, two, *options, "train.accumulate=2"))
    finished(together(4, store, four, *options, "train.accumulate=1"))
    for run in (two, four):
        assert len(losses(run)) == 40
        np.testing.assert_allclose(losses(run), losses(one), rtol=1e-4)
        assert_one_run(one, run)
    log = (four / "train.log").read_text()
    assert log.count("4 processes") == 1  # rank 0 alone writes
    assert log.count("epoch 1 is over") == 1


@pytest.mark.slow
def test_torchrun_and_the_option_are_the_same_thing(store, tmp_path, launch):
    options = ["train.max_updates=5", "train.valid_metrics=[loss,chrf]"]
    torchrun, option = tmp_path / "torchrun", tmp_path / "option"
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
             "-m", "s2s_cli.train", *words(store, torchrun, *options)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ),
        launch(2, store, option, *options),
    ]  # fmt: skip
    for process in processes:
        finished(process)
    same_bits(torchrun, option)


def test_resumed_on_another_number_of_processes_the_data_go_on_exactly(store, tmp_path, s2s, together, capsys):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert s2s("train", *words(store, whole, "data.group=2", "train.accumulate=2", NO_NOISE)) == 0
    finished(together(2, store, pieces, "data.group=2", "train.max_updates=13", NO_NOISE))
    capsys.readouterr()
    assert (
        s2s("train", *words(store, pieces, "data.group=2", "train.max_updates=26", "train.accumulate=2", NO_NOISE)) == 0
    )
    said = capsys.readouterr().err
    assert "distributed.processes changes from 2 to 1" in said
    assert "will not be bit-identical" in said
    assert "see train.accumulate" not in said
    said = finished(together(2, store, pieces, "data.group=2", NO_NOISE))
    assert "will not be bit-identical" in said
    assert_one_run(whole, pieces)
    assert s2s("train", *words(store, whole, "data.group=2", "train.accumulate=4")) == 2  # as many processes as before


@pytest.mark.slow
def test_resumed_on_the_same_number_of_processes_it_has_the_same_bits(store, tmp_path, together):
    """With three or more, the order in which gradients are added up counts."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    finished(together(3, store, whole))
    finished(together(3, store, pieces, "train.max_updates=11"))
    assert "will not be bit-identical" not in finished(together(3, store, pieces))
    same_bits(whole, pieces)


@pytest.mark.parametrize(
    ("trouble", "code", "line"),
    [
        ("if rank == 1 and updates == 5: raise Failure('the disk of this one is gone')", 1,
         "s2s-train: failed: the disk of this one is gone (process 1 of 2)"),
        ("if rank == 0 and updates == 5: raise UserError('line 7 is bad')", 2,
         "s2s-train: error: line 7 is bad (process 0 of 2)"),
        ("if rank == 1 and updates == 5: os.kill(os.getpid(), signal.SIGKILL)", None, "s2s-train: failed: "),
        ("if rank == 1 and updates == 5: raise Failure('while the other computes')\n"
         "if rank == 0 and updates == 5: time.sleep(60)", 1,
         "s2s-train: failed: while the other computes (process 1 of 2)"),
    ],
    ids=["failure", "user-error", "killed", "other-busy"],
)  # fmt: skip
@pytest.mark.parametrize("by", ["together", pytest.param("launch", marks=pytest.mark.slow)])
def test_a_process_that_fails_stops_all_with_its_own_message(store, tmp_path, request, by, trouble, code, line):
    began = time.monotonic()
    process = request.getfixturevalue(by)(2, store, tmp_path / "run", trouble=trouble)
    _, errors = process.communicate(timeout=120)
    said = [text for text in errors.splitlines() if text.startswith("s2s-train: ")]
    assert line in (said[0] if code is None else said), errors
    if code is not None:
        assert process.returncode == code
        assert len(said) == 1
        assert "Traceback" not in errors
    assert process.returncode not in (0, None)
    assert time.monotonic() - began < 50  # starting included


@pytest.mark.parametrize("failing", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_one_that_is_slow_to_hear_of_a_failure_hears_it(store, tmp_path, together, failing):
    """As on a busy machine. Rank 0 holds the news, and stays for it, whether it told them or heard them."""
    late = "from s2s.training import watch\nif rank == 1: watch.POLL = 4\n"
    process = together(3, store, tmp_path / "run", before=late,
                       trouble=f"if rank == {failing} and updates == 5: raise UserError('line 7 is bad')")  # fmt: skip
    errors = finished(process, 2)
    assert errors.splitlines()[-1] == f"s2s-train: error: line 7 is bad (process {failing} of 3)", errors
    assert [one.exitcode for one in process.processes] == [2, 2, 2]


def test_a_loss_that_is_not_finite_on_one_process_is_skipped_by_all(store, tmp_path, together):
    trouble = "if rank == 1 and updates in (3, 4): loss.sum = loss.sum * float('nan')"
    run = tmp_path / "run"
    finished(together(2, store, run, "train.max_updates=10", trouble=trouble))
    assert state(run)["progress"]["skipped"] == 2
    assert state(run)["progress"]["update"] == 10
    assert all(torch.isfinite(p).all() for p in load_file(run / "last/model.safetensors").values())


@pytest.mark.parametrize(
    "who", ["process", *(pytest.param(who, marks=pytest.mark.slow) for who in ("launcher", "launcher is killed"))]
)
def test_a_signal_to_any_process_saves_once_and_ends_all(store, tmp_path, together, launch, who):
    trouble = f"Path(r'{tmp_path}', f'pid.{{rank}}').write_text(str(os.getpid())); time.sleep(0.02)"
    run = tmp_path / "run"
    process = (together if who == "process" else launch)(
        2, store, run, "train.max_updates=100000", "train.checkpoint_updates=null", "train.valid_updates=100000",
        "train.log_updates=1", trouble=trouble,
    )  # fmt: skip
    while process.poll() is None and not ((run / "metrics.jsonl").exists() and losses(run)):
        time.sleep(0.05)
    if who == "process":
        os.kill(int((tmp_path / "pid.1").read_text()), signal.SIGUSR1)
    elif who == "launcher":
        process.send_signal(signal.SIGTERM)
    else:
        process.kill()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if who == "launcher is killed" else 0), errors
    until = time.monotonic() + 30
    while not (run / "last").exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert len(list((run / "checkpoints").iterdir())) == 1
    assert f"stopped by {'SIGUSR1' if who == 'process' else 'SIGTERM'}" in (run / "train.log").read_text()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_epoch_of_fewer_batches_than_processes(tmp_path, s2s, together, strategy):
    """Three pairs, a pair a batch: in each second update a process has none."""
    for side in ("src", "tgt"):
        (tmp_path / f"few.{side}").write_text("a b c d e\nb c d e f\nc d e f g\n")
    assert s2s("preprocess", "source=src", "target=tgt", f"train={tmp_path}/few", f"valid={tmp_path}/few",
               "tokenizer=words", f"store={tmp_path}/store", "workers=1") == 0  # fmt: skip
    options = ["data.batch_tokens=6", "data.group=2", "train.max_updates=12", "train.log_updates=1"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert s2s("train", *words(tmp_path / "store", one, *options, "train.accumulate=2")) == 0
    finished(together(2, tmp_path / "store", two, *options, f"distributed.strategy={strategy}"))
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-4)
    assert state(two)["iterator"]["epoch"] == state(one)["iterator"]["epoch"] == 6


def test_contradictions_are_told(store, tmp_path, s2s, together, capsys):
    assert s2s("train", "--multirun", *words(store, tmp_path / "sweep", "distributed.processes=2", "seed=1,2")) != 0
    assert "hydra or torchrun can start processes, not both" in capsys.readouterr().err
    process = together(1, store, tmp_path / "run", "distributed.processes=2")
    assert "distributed.processes=2, and 1 were started by torchrun" in finished(process, 2)


# --- processes that show no sign of life -----------------------------------------------------------------------------

STOP = "if rank == {rank} and updates == 12: os.kill(os.getpid(), signal.SIGSTOP)"


def by_torchrun(processes: int, store, run, *options, trouble: str, folder: Path) -> subprocess.Popen:
    """As the fixtures `together` and `launch`."""
    (folder / "stopped.py").write_text(troubled(trouble) + "from s2s_cli.train import main\nmain()\n")
    paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes),
         "-m", "stopped", *words(store, run, *options)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "by", ["together", *(pytest.param(by, marks=pytest.mark.slow) for by in ("launch", "torchrun"))]
)
def test_a_process_that_is_stopped_is_named_and_ends_all(store, tmp_path, request, together, by, rank):
    start = functools.partial(by_torchrun, folder=tmp_path) if by == "torchrun" else request.getfixturevalue(by)
    run = tmp_path / "run"
    process = start(2, store, run, "distributed.timeout=4", trouble=STOP.format(rank=rank))
    began = time.monotonic()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1, errors
    assert time.monotonic() - began < 60  # starting included
    (said,) = (text for text in errors.splitlines() if text.startswith("s2s-train: "))
    found = re.match(r"s2s-train: failed: process (\d) of 2 \(pid \d+ on (.*), last seen in update \d+\) has sent no "
                     r"heartbeat for 4 s; it was stopped, .* To resume, repeat the command", said)  # fmt: skip
    assert found, errors
    assert found.groups() == (str(rank), socket.gethostname())
    if by == "launch":
        assert "Traceback" not in errors
        finished(together(2, store, run))
        finished(together(2, store, tmp_path / "whole"))
        same_bits(tmp_path / "whole", run)


@pytest.mark.slow
def test_a_process_that_is_slow_is_waited_for_and_so_are_all_that_are_stopped_for_a_while(store, tmp_path, together):
    """Python and a native call that lets go of the interpreter, for longer than the time-out; then a job suspended."""
    trouble = f"""
        Path(r'{tmp_path}', f'pid.{{rank}}').write_text(str(os.getpid()))
        if rank == 1 and updates == 3:
            until = time.monotonic() + 5
            while time.monotonic() < until: pass
        if rank == 0 and updates == 5: time.sleep(5)
        if updates == 7: Path(r'{tmp_path}', f'ready.{{rank}}').touch()
        if updates == 7: time.sleep(0.5)
    """
    process = together(2, store, tmp_path / "run", "distributed.timeout=4", trouble=textwrap.dedent(trouble))
    while process.poll() is None and not all((tmp_path / f"ready.{rank}").exists() for rank in range(2)):
        time.sleep(0.02)
    pids = [int((tmp_path / f"pid.{rank}").read_text()) for rank in range(2)]
    for number, wait in ((signal.SIGSTOP, 5), (signal.SIGCONT, 0)):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(wait)
    finished(process)
    assert state(tmp_path / "run")["progress"]["update"] == 40


@pytest.mark.slow
def test_a_process_that_hangs_is_for_the_time_out_of_exchanges(store, tmp_path, together):
    """It beats all the same."""
    before = "import datetime; from s2s.training import distributed as d; d.TIMEOUT = datetime.timedelta(seconds=5)"
    trouble = "while rank == 1 and updates == 5: pass"
    process = together(2, store, tmp_path / "run", "distributed.timeout=2", trouble=trouble, before=before)
    errors = finished(process, 1)
    assert (
        "failed: an exchange with the other processes has failed, though they are alive; one may hang: proc" in errors
    )
