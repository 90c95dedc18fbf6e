"""Signals end a run at any moment, and the repeated command goes on to the same bits."""

import os
import signal
import subprocess
import sys
import time

import pytest

from s2s.checkpoint import runs
from s2s.training.interrupt import Interrupt
from tests.training.disturbed import events, words
from tests.training.test_resume import same_bits


def test_the_signal_of_slurm_saves_and_ends_well(store, whole, tmp_path, s2s, signalled):
    run = tmp_path / "run"
    code, said = signalled(signal.SIGUSR1, 5, *words(store, run))
    assert code == 0, said
    assert "stopped by SIGUSR1 at update " in said
    assert "To resume, repeat: " in said
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)


def test_stopped_before_a_validation_it_is_made_up_for(store, whole, tmp_path, s2s, monkeypatch):
    """Where a signal comes in update 8 or 20, after which the run validates, the metrics are those of no signal."""
    from s2s.training.trainer import Trainer

    plain, run = Trainer._update, tmp_path / "run"

    def update(self, *args):
        plain(self, *args)
        if self.progress.update in (8, 20):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update)
        for _ in range(2):
            assert s2s("train", *words(store, run)) == 0
    assert [event["update"] for event in events(run, "valid")] == [8, 16]
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)
    assert [event["update"] for event in events(run, "valid")] == [8, 16, 20]


def test_a_second_signal_ends_at_once_but_not_the_echo_of_the_first(monkeypatch):
    ends = []
    monkeypatch.setattr(os, "_exit", ends.append)
    with Interrupt() as interrupt:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.signal == signal.SIGTERM
        assert ends == []
        interrupt._when -= 2
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGINT)
        assert ends == [128 + signal.SIGUSR1, 128 + signal.SIGINT]


@pytest.mark.parametrize("where", ["loss", "decoding"])
def test_a_signal_in_a_validation_ends_it_at_once(store, whole, tmp_path, s2s, monkeypatch, where):
    """What was found is thrown away; the update is saved, and validated when the run goes on."""
    from s2s.training import validation
    from s2s.training.validation import Validator

    run, calls = tmp_path / "run", []
    plain = Validator._loss, validation.generator_of

    def loss(self, *args):
        if where == "loss" and not calls:
            calls.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return plain[0](self, *args)

    def generator_of(*args, tick, **options):
        def ticked():
            calls.append(1)
            if len(calls) == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            tick()

        return plain[1](*args, tick=ticked if where == "decoding" else tick, **options)

    monkeypatch.setattr(Validator, "_loss", loss)
    monkeypatch.setattr(validation, "generator_of", generator_of)
    decoded = ["train.valid_metrics=[loss,chrf]", "train.best_metric=loss"]
    assert s2s("train", *words(store, run, *decoded)) == 0
    assert len(calls) == (1 if where == "loss" else 3)
    assert [event["update"] for event in events(run, "valid")] == []
    assert [folder.name for folder in runs.steps(run)][-1] == "step_00000008"
    assert events(run, "end")[-1]["reason"] == "SIGTERM"
    assert s2s("train", *words(store, run)) == 0
    assert [event["update"] for event in events(run, "valid")] == [8, 16, 20]
    same_bits(whole, run)


@pytest.mark.parametrize("by", ["closed", pytest.param("nohup", marks=pytest.mark.slow)])
def test_a_terminal_that_is_closed_saves_and_ends_but_not_under_nohup(store, tmp_path, s2s, by):
    run, most = tmp_path / "run", 60 if by == "nohup" else 3000
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); " * (by == "nohup")
    code += "from s2s_cli.train import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *words(store, run, f"train.max_updates={most}")],
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    while process.poll() is None and not runs.steps(run):
        time.sleep(0.002)
    process.send_signal(signal.SIGHUP)
    _, said = process.communicate(timeout=100)
    update = runs.update_of(runs.steps(run)[-1])
    if by == "nohup":
        assert (process.returncode, update) == (0, most), said
    else:
        assert process.returncode == 128 + signal.SIGHUP, said
        assert f"stopped by SIGHUP at update {update}; a checkpoint is saved" in said
        assert update < most


def test_a_validation_that_fails_costs_no_update(store, whole, tmp_path, s2s, monkeypatch):
    """Memory, say, or a file of decode's that is gone."""
    from s2s.training.validation import Validator

    run, plain = tmp_path / "run", Validator.__call__

    def call(self, *args):
        raise MemoryError("no more")

    monkeypatch.setattr(Validator, "__call__", call)
    with pytest.raises(MemoryError):
        s2s("train", *words(store, run))
    assert runs.steps(run)[-1].name == "step_00000008"
    end = events(run, "end")[-1]
    assert (end["reason"], end["error"], end["update"]) == ("failure", "MemoryError: no more", 8)
    assert "failed: MemoryError: no more" in (run / "train.log").read_text().splitlines()[-1]
    monkeypatch.setattr(Validator, "__call__", plain)
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)


def test_the_command_to_go_on_does_not_delete_the_run(store, tmp_path, s2s, capsys, monkeypatch):
    from s2s.training.trainer import Trainer

    plain, run = Trainer._update, tmp_path / "run"

    def update(self, *args):
        plain(self, *args)
        if self.progress.update == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_update", update)
    assert s2s("train", *words(store, run, "overwrite=true")) == 0
    said = capsys.readouterr().err.splitlines()[-1]
    assert "To resume, repeat: s2s-train " in said
    assert said.endswith(" overwrite=false")
    assert "overwrite=true" not in said


def test_a_run_that_is_ended_before_it_has_begun_is_begun_by_the_repeated_command(store, tmp_path, s2s, monkeypatch):
    """Its folder holds what the process had written till then."""
    from s2s.training import run as runs_of

    run, plain, written = tmp_path / "run", runs_of._write, []

    def write(file, text):
        if written:
            raise KeyboardInterrupt
        written.append(file.name)
        plain(file, text)

    with monkeypatch.context() as patch:
        patch.setattr(runs_of, "_write", write)
        assert s2s("train", *words(store, run, "train.max_updates=2")) == 130
    assert sorted(path.name for path in run.iterdir()) == ["lock", "run.json"]
    (run / "run.json").rename(run / ".run.json")  # or not even that
    assert s2s("train", *words(store, run, "train.max_updates=2")) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGHUP, 129), (signal.SIGINT, 130)])
@pytest.mark.parametrize("saved", [True, False])
def test_the_launcher_ends_with_0_only_if_the_processes_had_saved(monkeypatch, capsys, number, code, saved):
    import logging
    from pathlib import Path

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.launcher import api

    from s2s.training import distributed

    def elastic_launch(config, executable):
        def run(*words):
            if saved:
                Path(os.environ[distributed.ENDED]).touch()
            raise SignalException("ended", signal.Signals(number))

        return run

    monkeypatch.setattr(api, "elastic_launch", elastic_launch)
    monkeypatch.setattr(logging, "disable", lambda level: None)
    for name in ("OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT", distributed.ENDED):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # put back at the end
    assert distributed.launch(2, "none", []) == (code if saved else 1)
    assert ("before they had saved" in capsys.readouterr().err) != saved
