"""A run that is stopped, killed or damaged goes on and ends with the bits of the undisturbed run."""

import json
import random
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

SMALL = ["model=transformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1", "model.encoder.width=32",
         "model.decoder.width=32", "model.encoder.ffn_width=64", "model.decoder.ffn_width=64", "data.batch_tokens=200",
         "device=cpu", "train.samples=0", "optim.warmup_updates=10"]  # fmt: skip


def same_bits(first: Path, second: Path) -> None:
    for name in ("model.safetensors", "training.safetensors"):
        a, b = load_file(first / "last" / name), load_file(second / "last" / name)
        assert a.keys() == b.keys()
        for key in a:
            assert a[key].equal(b[key]), key
    states = [json.loads((run / "last/state.json").read_text()) for run in (first, second)]
    for state in states:
        state["progress"].pop("seconds")
        state["progress"]["epoch"].pop("waited", None)
    assert states[0] == states[1]


def words(store, run, *more):
    return [*SMALL, f"store={store}", f"run={run}", "train.max_updates=40", "train.checkpoint_updates=7",
            "train.valid_updates=15", *more]  # fmt: skip


@pytest.mark.parametrize("options", [
    pytest.param([], marks=pytest.mark.slow), ["train.ema=0.9", "train.accumulate=2", "optim=adamw", "workers=2"]
])  # fmt: skip
def test_killed_at_random_moments_and_resumed_ends_bit_identical(store, tmp_path, s2s, spawn, options):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert s2s("train", *words(store, whole, *options)) == 0
    # As often as there is something to kill: wait for progress, let a random moment pass, kill -9.
    rng, kills = random.Random(0), 0
    for target in (7, 21, 28):
        process = spawn("train", *words(store, killed, *options))
        while process.poll() is None and not (killed / f"checkpoints/step_{target:08d}").exists():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.05))
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills >= 1
    assert s2s("train", *words(store, killed, *options)) == 0
    same_bits(whole, killed)
    assert not list((killed / "checkpoints").glob(".partial*"))


def test_stop_at_every_kind_of_update_and_resume(store, tmp_path, s2s):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert s2s("train", *words(store, whole, "train.max_updates=30")) == 0
    epoch = json.loads((whole / "last/state.json").read_text())["iterator"]
    assert epoch["epoch"] > 1  # the pieces below end inside epochs and at their borders
    for stop in (1, 2, 13, 14, 15, 16, 29, 30):
        assert s2s("train", *words(store, pieces, f"train.max_updates={stop}", "train.valid_updates=1000")) == 0
    weights = [load_file(run / "last/model.safetensors") for run in (whole, pieces)]
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_go_on(store, tmp_path, s2s, signalled, number, code):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert s2s("train", *words(store, whole, "train.log_updates=1")) == 0
    ended, errors = signalled(number, 10, *words(store, stopped, "train.log_updates=1"))
    assert ended == code, errors
    assert "a checkpoint is saved. To resume, repeat: " in errors
    assert "Traceback" not in errors
    assert s2s("train", *words(store, stopped, "train.log_updates=1")) == 0
    same_bits(whole, stopped)


def test_a_damaged_last_checkpoint_is_named_and_the_one_before_is_used(store, tmp_path, s2s, capsys):
    whole, damaged = tmp_path / "whole", tmp_path / "damaged"
    assert s2s("train", *words(store, whole)) == 0
    assert s2s("train", *words(store, damaged, "train.max_updates=33")) == 0
    file = (damaged / "last").resolve() / "training.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    capsys.readouterr()
    assert s2s("train", *words(store, damaged)) == 0
    errors = capsys.readouterr().err
    assert "step_00000033/training.safetensors" in errors
    assert "resuming from step_00000030" in errors
    same_bits(whole, damaged)


def test_best_metric_and_patience_survive_and_an_end_by_patience_says_so(store, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    never_better = ["optim.lr=0", "train.patience=3", "train.valid_updates=2", "train.max_updates=100"]
    assert s2s("train", *words(store, run, *never_better, "train.max_updates=5")) == 0
    assert capsys.readouterr().err.splitlines()[-1].startswith("done: 5 updates in 0:00:")
    said = "stopped by train.patience=3: no new best loss in 3 validations; raise it to go on. {} updates in 0:00:0"
    for _ in range(2):  # when it ends, and when the command is repeated
        assert s2s("train", *words(store, run, *never_better)) == 0
        progress = json.loads((run / "last/state.json").read_text())["progress"]
        assert progress["bad_validations"] == 3
        assert progress["update"] <= 8
        assert capsys.readouterr().err.splitlines()[-1].startswith(said.format(progress["update"]))
        assert said.format(progress["update"]) in (run / "train.log").read_text().splitlines()[-1]
        event = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        assert (event["kind"], event["reason"], event["update"]) == ("end", "train.patience", progress["update"])
    assert s2s("train", *words(store, run, *never_better, "train.patience=4")) == 0
    assert json.loads((run / "last/state.json").read_text())["progress"]["update"] == progress["update"] + 2


def test_a_validation_that_is_not_finite_is_no_best(store, tmp_path, s2s, monkeypatch):
    """It was the best of all, for nothing is less than NaN, and JSON has no name for it."""
    from s2s.training.validation import Validator

    plain, run, calls = Validator._loss, tmp_path / "run", []

    def loss(self, *args):
        calls.append(1)
        return plain(self, *args) | ({"loss": float("nan")} if len(calls) == 1 else {})

    monkeypatch.setattr(Validator, "_loss", loss)
    options = ["train.valid_updates=2", "train.checkpoint_updates=2", "train.max_updates=8"]
    assert s2s("train", *words(store, run, *options)) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    events = [json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON")) for line in lines]
    found = [event["loss"] for event in events if event["kind"] == "valid"]
    assert found[0] is None
    assert len(found) == 4
    progress = json.loads((run / "last/state.json").read_text())["progress"]
    assert progress["best"] == min(found[1:])


def test_metrics_are_appended(store, tmp_path, s2s):
    run = tmp_path / "run"
    for updates in (10, 20):
        assert s2s("train", *words(store, run, f"train.max_updates={updates}", "train.log_updates=5")) == 0
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines if line["kind"] == "train"] == [5, 10, 15, 20]
    assert [line["kind"] for line in lines if line["kind"] in ("start", "resume")] == ["start", "resume"]
    assert list((run / "tensorboard").glob("events*"))
