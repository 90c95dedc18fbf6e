"""Training in bf16 with weights that are cast once an update has the bits of autocast, with fewer casts."""

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from s2s.data.batch import Inputs
from s2s.text.vocabulary import BOS
from s2s.training.half_weights import HalfWeights, autocast
from s2s.training.wrapping import checkpoint_activations
from tests.models.test_parts import model_of, sources_of
from tests.training.test_resume import same_bits, words

CASES = {
    "plain": [],
    "post-norm, without bias": ["norm=post", "bias=false", "positions=rotary", "activation=swiglu"],
    "speech": ["frontend=subsampling", "encoder.layer=conformer"],
    "recurrent": ["decoder=lstm"],
    "no padding": ["encoder.unpad=true"],
    "auxiliary heads": ["auxiliary_heads=[1]"],
    "linear bridge": ["bridge=linear"],
}


class Casts(TorchDispatchMode):
    """Counts operators by name."""

    def __init__(self):
        super().__init__()
        self.count = collections.Counter()

    def __torch_dispatch__(self, operator, _, args=(), kwargs=None):
        self.count[operator._schema.name.split("::")[1]] += 1
        return operator(*args, **(kwargs or {}))


def gradients(model, half: HalfWeights) -> tuple[dict, collections.Counter]:
    """Gradients of two forward and backward passes in bf16, and the operators."""
    model.zero_grad()
    with Casts() as casts:
        half.cast()
        for lengths, seed in (([40, 17, 29], 3), ([8, 24], 4)):
            sources = sources_of(model, lengths)
            shown = torch.tensor([[BOS, 5, 6, 7]] * len(lengths))
            torch.manual_seed(seed)
            with half.in_use():
                with autocast(torch.device("cpu"), "bf16"):
                    logits = model.decode(model.encode(*Inputs(sources)), shown).logits()
                logits.float().logsumexp(-1).sum().backward()
    return {name: p.grad for name, p in model.named_parameters()}, casts.count


def check(model) -> tuple[collections.Counter, collections.Counter]:
    """That gradients have the bits of autocast. Returns the operators of both."""
    model.train()
    expected, plain = gradients(model, HalfWeights(None))
    expected = {name: value if value is None else value.clone() for name, value in expected.items()}
    found, ours = gradients(model, HalfWeights(model))
    for name, value in expected.items():
        assert (found[name] is None) == (value is None), name
        assert value is None or (found[name].dtype == torch.float32 and found[name].equal(value)), name
    assert not any("forward" in vars(module) for module in model.modules() if type(module) is torch.nn.Linear)
    return plain, ours


@pytest.mark.parametrize("name", CASES)
def test_gradients_have_the_bits_of_autocast(name):
    size = {"size": ["encoder.width=16", "decoder.width=16"]} if name == "recurrent" else {}
    model = model_of(*CASES[name], "dropout=0.1", **size)
    plain, ours = check(model)
    linear = sum(len(list(m.parameters())) for m in model.modules() if type(m) is torch.nn.Linear)
    # Each weight was cast once in each forward pass, and its gradient once in each backward pass.
    assert ours["_to_copy"] <= plain["_to_copy"] - 3 * linear
    assert ours["_foreach_copy_"] <= 1 + 2 * (len(model.encoder.layers) + 3)


def test_layers_that_are_computed_twice():
    model = model_of("dropout=0.1", "attention_dropout=0.1")
    checkpoint_activations(model)
    check(model)


def test_frozen_weights_have_no_gradient():
    model = model_of("dropout=0.1")
    for p in [*model.encoder.layers[1].parameters(), *model.decoder.layers[0].attention.parameters()]:
        p.requires_grad_(False)
    check(model)
    assert model.decoder.layers[0].attention.qkv.weight.grad is None


def test_a_linear_map_outside_of_autocast_is_in_full_precision():
    model = model_of()
    layer, half = model.encoder.layers[0].feedforward.inner, HalfWeights(model)
    half.cast()
    x = torch.randn(3, 16)
    with half.in_use(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        with torch.autocast("cpu", enabled=False):
            assert layer(x).equal(torch.nn.functional.linear(x, layer.weight, layer.bias))


@pytest.mark.parametrize("options", [["train.accumulate=2", "criterion=r_drop", "train.ema=0.9"],
                                     ["train.freeze=[encoder]", "train.checkpoint_activations=true"]])  # fmt: skip
def test_a_run_has_the_bits_of_autocast(store, tmp_path, s2s, monkeypatch, options):
    options = ["train.max_updates=4", "train.precision=bf16", *options]
    assert s2s("train", *words(store, tmp_path / "once", *options)) == 0
    monkeypatch.setattr("s2s.training.trainer.HalfWeights", lambda model: HalfWeights(None))
    assert s2s("train", *words(store, tmp_path / "autocast", *options)) == 0
    same_bits(tmp_path / "once", tmp_path / "autocast")
