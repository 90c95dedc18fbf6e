"""Where the numbers of a run go beside its metrics.jsonl."""

import json
import signal
import sys
import types
import unittest.mock

import pytest

from s2s.errors import UserError
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


def test_tensorboard_gets_samples_maps_config_and_the_last_validation(store, tmp_path, s2s):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = tmp_path / "run"
    options = ["train.samples=2", "train.attention_maps=true", "train.max_updates=15", "seed=7"]
    assert s2s("train", *words(store, run, *options)) == 0
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {"attention/1", "attention/2"}
    (text,) = events.Tensors("samples/2/text_summary")
    sample = (run / "train.log").read_text().rpartition("  source:     ")[2].splitlines()
    shown = text.tensor_proto.string_val[0].decode()
    assert f"source:     {sample[0]}" in shown
    assert sample[2].strip() in shown
    (image,) = events.Images("attention/1")
    assert image.encoded_image_string.startswith(b"\x89PNG")
    parameters = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    start = HParamsPluginData.FromString(parameters).session_start_info.hparams
    assert start["seed"].number_value == 7
    assert start["model.type"].string_value == "transformer"
    described = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/experiment").plugin_data.content)
    assert "valid/loss" in {info.name.tag for info in described.experiment.metric_infos}


def test_mlflow_is_told_how_a_run_ends(store, tmp_path, s2s, monkeypatch):
    mlflow = unittest.mock.MagicMock()
    client = mlflow.MlflowClient.return_value
    client.create_run.return_value.info.run_id = "id"
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", mlflow.entities)
    options = words(store, tmp_path / "run", "train.loggers=[mlflow]", "train.max_updates=5")
    assert s2s("train", *options) == 0
    monkeypatch.setattr("s2s.training.trainer.Trainer.train", lambda *_: signal.SIGTERM)
    s2s("train", *options)
    monkeypatch.setattr("s2s.training.trainer.Trainer.train", unittest.mock.Mock(side_effect=UserError("no space")))
    s2s("train", *options)
    assert client.set_terminated.call_args_list == [
        unittest.mock.call("id", status) for status in ("FINISHED", "KILLED", "FAILED")
    ]


@pytest.mark.slow
def test_mlflow_gets_the_numbers_and_a_resumed_run_goes_on(store, tmp_path, s2s, monkeypatch):
    """With a database in the run's folder, without a server."""
    mlflow = pytest.importorskip("mlflow")
    for variable in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    run = tmp_path / "named"
    for updates in (15, 30):
        options = ["train.loggers=[mlflow]", f"train.max_updates={updates}"]
        assert s2s("train", *words(store, run, *options)) == 0
    client = mlflow.MlflowClient(f"sqlite:///{run}/mlflow.db")
    (only,) = client.search_runs([client.get_experiment_by_name("s2s").experiment_id])
    assert (only.info.run_name, only.info.status) == ("named", "FINISHED")
    assert only.data.params["model.type"] == "transformer"
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = [(event["update"], event["loss"]) for event in events if event["kind"] == "valid"]
    logged = client.get_metric_history(only.info.run_id, "valid/loss")
    assert [(metric.step, metric.value) for metric in logged] == expected


@pytest.mark.slow
def test_wandb_itself_takes_a_run_offline(store, tmp_path, s2s, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "named"
    assert s2s("train", *words(store, run, "train.loggers=[wandb]", "train.max_updates=15")) == 0
    assert (run / "wandb.id").read_text()
    assert list((run / "wandb").glob("offline-run-*/run-*.wandb"))
