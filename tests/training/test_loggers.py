"""Where the numbers of a run go beside its metrics.jsonl."""

import json
import sys
import types

import pytest

from tests.training.test_resume import words


class Wandb(types.ModuleType):
    """As much of wandb as is used; remembers what it was told."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = []

    def init(self, **options):
        self.runs.append(types.SimpleNamespace(id=options["id"] or f"id{len(self.runs)}", options=options, logged=[]))
        run = self.runs[-1]
        run.define_metric = lambda name, step_metric: setattr(run, "steps", step_metric)
        run.log = run.logged.append
        run.finish = lambda: setattr(run, "finished", True)
        return run


@pytest.fixture
def wandb(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Wandb())
    return sys.modules["wandb"]


def test_weights_and_biases_gets_the_numbers_of_metrics_and_a_resumed_run_goes_on(
    store, tmp_path, s2s, wandb, monkeypatch
):
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    run = tmp_path / "named"
    options = ["train.loggers=[tensorboard,wandb]", "train.log_updates=5"]
    for updates in (10, 20):
        assert s2s("train", *words(store, run, *options, f"train.max_updates={updates}")) == 0
    first, second = wandb.runs
    assert (first.options["project"], first.options["name"], first.options["id"]) == ("ours", "named", None)
    assert (second.options["id"], second.options["resume"]) == ("id0", "allow")
    assert second.options["config"]["train"]["max_updates"] == 20
    assert first.finished
    assert second.finished
    assert first.steps == "update"
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for kind in ("train", "valid"):
        expected = [(event["update"], event["loss"]) for event in events if event["kind"] == kind]
        logged = [(one["update"], one[f"{kind}/loss"]) for one in first.logged + second.logged if f"{kind}/loss" in one]
        assert logged == expected
    assert list((run / "tensorboard").glob("events*"))


def test_no_loggers_are_fine_and_unknown_or_missing_ones_are_named_before_anything_is_written(
    store, tmp_path, s2s, capsys, monkeypatch
):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=5", "train.loggers=[]")) == 0
    assert (run / "metrics.jsonl").is_file()
    assert not (run / "tensorboard").exists()
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    for name, complaint in [("wandb", "pip install wandb"), ("paper", "choose one of tensorboard, wandb")]:
        assert s2s("train", *words(store, tmp_path / "other", f"train.loggers=[{name}]")) == 2
        assert complaint in capsys.readouterr().err
        assert not (tmp_path / "other").exists()


def test_what_weights_and_biases_refuses_is_one_line(store, tmp_path, s2s, capsys, wandb):
    def init(**_):
        raise RuntimeError("no API key")

    wandb.init = init
    assert s2s("train", *words(store, tmp_path / "run", "train.loggers=[wandb]")) == 2
    assert "s2s-train: error: train.loggers: wandb: no API key" in capsys.readouterr().err
