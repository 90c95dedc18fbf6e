"""A language model from a store by s2s-train, and beside a translation model in s2s-generate."""

import json

import numpy as np
import pytest
import torch

from s2s.data.iterator import DataConfig
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.tasks.language_modeling import LanguageModelingTask
from tests.conftest import _call

SIZE = ["device=cpu", "train.max_updates=40", "data.batch_tokens=400", "optim.lr=3e-3", "optim.warmup_updates=10"]
LM = ["task=language_modeling", "model=transformer_lm_tiny", "model.decoder.layers=1", "model.decoder.width=32",
      "model.decoder.ffn_width=64", *SIZE]  # fmt: skip
MODEL = ["model=transformer_tiny", "model.encoder.layers=1", "model.decoder.layers=1", "model.encoder.width=32",
         "model.decoder.width=32", "model.encoder.ffn_width=64", "model.decoder.ffn_width=64", "train.samples=0",
         *SIZE]  # fmt: skip


def train(*words):
    with pytest.MonkeyPatch.context() as monkeypatch:
        return _call(monkeypatch, "s2s_cli.train", *map(str, words))


@pytest.fixture(scope="module")
def runs(store, tmp_path_factory):
    """A barely trained language model, and a translation model."""
    folder = tmp_path_factory.mktemp("runs")
    assert train(f"store={store}", f"run={folder}/lm", *LM) == 0
    assert train(f"store={store}", f"run={folder}/model", *MODEL) == 0
    return folder


def test_a_language_model_learns_the_target_side(runs):
    lines = [json.loads(line) for line in (runs / "lm" / "metrics.jsonl").read_text().splitlines()]
    perplexity = [line["perplexity"] for line in lines if line.get("event", line.get("kind")) == "valid"]
    # Random letters, between one and eight of them: ten letters and the end.
    assert 5 < perplexity[-1] < 11


@pytest.mark.parametrize("batching", ["token_budget", "packed"])
def test_batches_hold_targets_and_empty_sources(store, batching):
    task = LanguageModelingTask.setup(Store(store))
    split = Store(store).split("train")
    dataset = task.dataset(split)
    source, target = dataset.lengths(0, 5)
    assert source.tolist() == [1] * 5
    assert target.tolist() == [len(split.row("target.tokens", i)) + 1 for i in range(5)]
    rows = np.array([3, 2]) if batching == "packed" else None
    batch = dataset.collate(np.arange(5), rows)
    assert int(batch.target_lengths.sum()) == int(target.sum())
    assert batch.target[0, : target[0] - 1].tolist() == split.row("target.tokens", 0).tolist()
    assert int(batch.sources[0].lengths.sum()) == 5


def generate(s2s, capsys, runs, *words):
    folder = runs.parent / "out"
    folder.mkdir(exist_ok=True)
    code = s2s("generate", f"checkpoint={runs}/model", "format=json", f"output={folder}/hyp", "device=cpu", *words)
    assert code == 0, capsys.readouterr().err
    return [json.loads(line) for line in (folder / "hyp").read_text().splitlines()]


def test_fusion_with_a_checkpoint(s2s, capsys, runs, store):
    def found(*words):
        return generate(s2s, capsys, runs, f"store={store}", "split=test", *words)

    fused = f"decode.language_model={runs}/lm"
    without, weightless, with_it = found(), found(fused, "decode.language_model_weight=0"), found(fused)
    for one, other in zip(without, weightless, strict=True):
        assert one["hypothesis"] == other["hypothesis"]
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)
    assert all(one["score"] != other["score"] for one, other in zip(without, with_it, strict=True))


def test_what_goes_wrong(s2s, capsys, runs, store, tmp_path):
    def failed(*words):
        code = s2s(*words, "device=cpu")
        assert code == 2
        return capsys.readouterr().err

    decode = ["generate", f"checkpoint={runs}/model", f"store={store}"]
    assert "is no language model; s2s-train task=language_modeling" in failed(
        *decode, f"decode.language_model={runs}/model"
    )
    assert "a language model cannot decode by itself" in failed("generate", f"checkpoint={runs}/lm", f"store={store}")
    folder = tmp_path / "other"
    corpus = store.parent
    assert s2s("preprocess", "source=src", "target=tgt", f"train={corpus}/train", f"valid={corpus}/valid",
               "tokenizer=characters", f"store={folder}", "workers=1") == 0  # fmt: skip
    assert s2s("train", f"store={folder}", f"run={tmp_path}/lm", *LM, "train.max_updates=1") == 0
    capsys.readouterr()
    assert "differs from the checkpoint's" in failed(*decode, f"decode.language_model={tmp_path}/lm")
    assert "train.samples=0 and train.valid_metrics=[loss]" in failed(
        "train", f"store={store}", f"run={tmp_path}/a", *LM, "train.valid_metrics=[bleu]"
    )
    assert "model.frontend=tokens reads text, and the task has no source; try model=transformer_lm_small" in failed(
        "train", f"store={store}", f"run={tmp_path}/a", "task=language_modeling", "model=transformer_tiny"
    )
    assert "model=transformer_lm reads no source, and the task has text; try model=transformer_base" in failed(
        "train", f"store={store}", f"run={tmp_path}/a", "model=transformer_lm_tiny"
    )


def test_options_of_a_source_are_refused(store):
    task = LanguageModelingTask.setup(Store(store))
    dataset = task.dataset(Store(store).split("train"))
    task.check(DataConfig(), dataset)
    for options in ({"character_noise": 0.1}, {"word_dropout": 0.1}):
        with pytest.raises(UserError, match="requires text as source; task=language_modeling has no source"):
            task.check(DataConfig(**options), dataset)


def test_a_checkpoint_comes_back(runs, store):
    from s2s.checkpoint.loading import load_model

    model, task, _ = load_model(f"{runs}/lm")
    assert isinstance(task, LanguageModelingTask)
    batch = task.dataset(Store(store).split("valid")).collate(np.arange(4))
    with torch.no_grad():
        logits = model.decode(model.encode(batch.sources), batch.decoder_input).logits()
    assert logits.shape == (*batch.target.shape, len(task.target_tokenizer.vocabulary))
