"""Terms of the loss in training: divisors of their own, state, and batches that stay whole."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s2s import registry
from s2s.criterions.criterion import Criterion
from s2s.training import calibrate, splitting
from tests.training import own_terms
from tests.training.test_distributed import NO_NOISE, assert_one_run, finished, losses, state
from tests.training.test_resume import same_bits, words
from tests.training.test_trainer import one_error_line

OWN = ["criterion.terms=[cross_entropy,spread,ends]", "criterion.spread.weight=0.3", "criterion.ends.weight=0.2"]


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """The terms of `own_terms`."""
    for kind in ("term", "model"):
        monkeypatch.setitem(registry.COMPONENTS, kind, dict(registry.COMPONENTS[kind]))
    own_terms.register()


def remembered(run) -> dict[str, torch.Tensor]:
    return load_file(run / "last/training_terms.safetensors")


def assert_same_run(first, second) -> None:
    np.testing.assert_allclose(losses(second), losses(first), rtol=1e-4)
    assert_one_run(first, second)
    assert remembered(first)["spread.push"][0] != 0
    torch.testing.assert_close(remembered(first), remembered(second), rtol=1e-4, atol=1e-9)


def options_of(*more: str) -> list[str]:
    return [*OWN, "data.group=4", "train.log_updates=1", "train.max_updates=12", NO_NOISE, *more]


def test_two_processes_make_the_run_of_one(store, tmp_path, s2s, together):
    one, two = tmp_path / "one", tmp_path / "two"
    assert s2s("train", *words(store, one, *options_of("train.accumulate=4"))) == 0
    finished(together(2, store, two, *options_of("train.accumulate=2"), before=own_terms.BEFORE))
    assert_same_run(one, two)
    events = [json.loads(line) for line in (two / "metrics.jsonl").read_text().splitlines()]
    event = next(event for event in events if event["kind"] == "train")
    assert {"nll", "spread", "ends", "loud", "longest"} <= event.keys()
    assert "places" not in event


@pytest.mark.slow
def test_four_processes_and_shards_make_the_run_of_one(store, tmp_path, s2s, together):
    one, four, shards = (tmp_path / name for name in ("one", "four", "shards"))
    assert s2s("train", *words(store, one, *options_of("train.accumulate=4"))) == 0
    finished(together(4, store, four, *options_of("train.accumulate=1"), before=own_terms.BEFORE))
    assert_same_run(one, four)
    fsdp = options_of("train.accumulate=2", "distributed.strategy=fsdp")
    finished(together(2, store, shards, *fsdp, before=own_terms.BEFORE))
    np.testing.assert_allclose(losses(shards), losses(one), rtol=1e-4)
    torch.testing.assert_close(remembered(one), remembered(shards), rtol=1e-4, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_an_output_that_is_not_a_matrix_is_trained_as_one_that_is(store, tmp_path, s2s, together, strategy):
    plain, wrapped = tmp_path / "plain", tmp_path / "wrapped"
    options = ["criterion=r_drop", "train.log_updates=1", "train.max_updates=12", "train.valid_metrics=[loss,chrf]",
               "data.group=2", NO_NOISE]  # fmt: skip
    assert s2s("train", *words(store, plain, *options, "train.accumulate=2")) == 0
    model = ["model=wrapped", "model.encoder.heads=4", "model.decoder.heads=4"]
    finished(together(2, store, wrapped, *options, *model, f"distributed.strategy={strategy}", before=own_terms.BEFORE))
    np.testing.assert_allclose(losses(wrapped), losses(plain), rtol=1e-4)
    a, b = (load_file(run / "last/model.safetensors") for run in (plain, wrapped))
    assert a.keys() == b.keys()  # the output is tied to the embedding, under whose name it is saved
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=1e-3, atol=1e-4)


def test_a_resumed_run_has_the_state_of_its_terms(store, tmp_path, s2s, capsys):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    options = [*OWN, "train.checkpoint_updates=3"]
    assert s2s("train", *words(store, whole, *options, "train.max_updates=10")) == 0
    for updates in (2, 5, 10):
        assert s2s("train", *words(store, pieces, *options, f"train.max_updates={updates}")) == 0
    same_bits(whole, pieces)
    assert remembered(whole)["spread.push"].equal(remembered(pieces)["spread.push"])
    assert s2s("generate", f"checkpoint={whole}", f"input={store.parent}/test.src", "device=cpu",
               f"output={tmp_path}/out") == 0  # fmt: skip
    capsys.readouterr()
    assert s2s("train", *words(store, pieces, "train.max_updates=12")) == 2
    assert "criterion.terms was ['cross_entropy', 'spread', 'ends'] and is now" in one_error_line(capsys)


def test_an_update_without_gradient_is_not_learned_from(store, tmp_path, s2s, monkeypatch):
    plain, seen, calls = own_terms.Spread.updated, [], []

    def updated(self, update, values):
        seen.append(update)
        assert all(np.isfinite(value) for value in values.values())
        plain(self, update, values)

    whole = Criterion.__call__

    def poisoned(self, model, batch, totals=None):
        loss = whole(self, model, batch, totals)
        calls.append(model.training)
        loss.sum = loss.sum * float("nan") if sum(calls) == 2 else loss.sum
        return loss

    monkeypatch.setattr(own_terms.Spread, "updated", updated)
    monkeypatch.setattr(Criterion, "__call__", poisoned)
    assert s2s("train", *words(store, tmp_path / "run", *OWN, "train.max_updates=4")) == 0
    assert state(tmp_path / "run")["progress"]["skipped"] == 1
    assert seen == [1, 3, 4]


COUPLED = ["criterion.terms=[cross_entropy,contrast]", "model.dropout=0.1", "train.max_updates=3"]


def test_batches_of_a_term_that_couples_examples_stay_whole(store, tmp_path, s2s, monkeypatch, capsys):
    plain, sizes, most = Criterion.__call__, [], [10**9]
    monkeypatch.setitem(splitting.PIECE, "tokens", 60)

    def counted(self, model, batch, totals=None):
        sizes.append(len(batch.ids))
        if model.training and len(batch.ids) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return plain(self, model, batch, totals)

    monkeypatch.setattr(Criterion, "__call__", counted)
    assert s2s("train", *words(store, tmp_path / "cut", *COUPLED[1:])) == 0
    pieces = list(sizes)
    sizes.clear()
    assert s2s("train", *words(store, tmp_path / "whole", *COUPLED)) == 0
    assert len(sizes) < len(pieces)
    assert sum(sizes) == sum(pieces)
    assert "note: the term contrast compares the examples of a batch, so batches that do not fit" in (
        capsys.readouterr().err
    )
    most[0] = 4
    assert s2s("train", *words(store, tmp_path / "short", *COUPLED)) == 1
    assert "it is not split, because the term contrast compares the examples" in one_error_line(capsys)


@pytest.mark.parametrize("coupled", [False, True])
def test_calibration_cuts_no_batch_of_such_a_term(store, tmp_path, s2s, monkeypatch, coupled):
    plain, cut = Criterion.__call__, []

    def counted(self, model, batch, totals=None):
        cut.append(totals is not None and totals["tokens"] > batch.counts.target)
        return plain(self, model, batch, totals)

    monkeypatch.setattr(Criterion, "__call__", counted)
    monkeypatch.setitem(splitting.PIECE, "tokens", 60)
    monkeypatch.setattr(calibrate, "TIMED_SECONDS", 1e-9)
    monkeypatch.setattr(calibrate, "TIMED_BATCHES", 1)
    options = COUPLED if coupled else COUPLED[1:]
    assert s2s("train", *words(store, tmp_path / "run", *options, "train.calibrate=true")) == 0
    assert len(cut) > 6
    assert any(cut) != coupled
