"""Layers that are computed twice, or compiled, train the same model."""

import copy
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from s2s.training.wrapping import checkpoint_activations
from tests.models.test_transformer import model_of, ragged
from tests.training.test_distributed import losses
from tests.training.test_resume import same_bits, words


def gradients(model) -> tuple[dict[str, torch.Tensor], int]:
    """A model's gradients on a made-up batch, and the bytes that were saved for the backward pass beside weights."""
    model.train()
    own, saved = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    source, target = ragged(20, [9, 7, 3, 8]), ragged(23, [6, 9, 2, 5])
    torch.manual_seed(3)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model.decode(model.encode((source,)), target.values)
        loss = output.logits().logsumexp(-1).sum()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, sum(saved.values())


def test_layers_computed_twice_have_the_same_gradients_and_save_less():
    model = model_of(dropout=0.2, attention_dropout=0.1, activation_dropout=0.1)
    other = copy.deepcopy(model)
    checkpoint_activations(other)
    names = [name for name, _ in model.named_parameters()]
    assert [name for name, _ in other.named_parameters()] == names
    (plain, much), (twice, little) = gradients(model), gradients(other)
    assert all(plain[name].equal(twice[name]) for name in names)
    assert little < 0.5 * much


def test_a_copy_of_layers_computed_twice_has_weights_of_its_own():
    """A model is copied to be packed for decoding."""
    model = model_of(dropout=0.2)
    checkpoint_activations(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    assert all(grad.count_nonzero() == 0 for name, grad in gradients(other)[0].items() if "encoder" in name)
    assert all(p.grad is None for p in model.parameters())


def test_a_run_with_layers_computed_twice_has_the_same_bits(store, tmp_path, s2s):
    plain, twice = tmp_path / "plain", tmp_path / "twice"
    options = ["train.max_updates=12", "criterion=r_drop"]
    assert s2s("train", *words(store, plain, *options)) == 0
    assert s2s("train", *words(store, twice, *options, "train.checkpoint_activations=true")) == 0
    same_bits(plain, twice)


@pytest.mark.slow
def test_a_compiled_run_is_the_same_run(store, tmp_path, s2s, capsys):
    plain, compiled = tmp_path / "plain", tmp_path / "compiled"
    options = ["train.max_updates=20", "train.log_updates=1", "model.dropout=0", "train.valid_metrics=[loss,chrf]"]
    assert s2s("train", *words(store, plain, *options)) == 0
    capsys.readouterr()
    assert s2s("train", *words(store, compiled, *options, "train.compile=true",
                               "train.checkpoint_activations=true")) == 0  # fmt: skip
    assert "compiled in " in capsys.readouterr().err
    np.testing.assert_allclose(losses(compiled), losses(plain), rtol=1e-4)
    a, b = (load_file(run / "last/model.safetensors") for run in (plain, compiled))
    assert a.keys() == b.keys()
    lines = [json.loads(line) for line in (compiled / "metrics.jsonl").read_text().splitlines()]
    assert [line["seconds"] > 0 for line in lines if line["kind"] == "compile"] == [True]


def test_compiling_without_a_compiler_is_told(store, tmp_path, s2s, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "there-is-no-such-compiler")
    assert s2s("train", *words(store, tmp_path / "run", "train.compile=true")) == 2
    assert "train.compile=true: requires a C++ compiler" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
