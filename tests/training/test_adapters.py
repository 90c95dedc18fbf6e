"""Adapters: they alone are trained, they compute what they say, and decoding is that of a plain model."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from s2s import registry
from s2s.backends.prepare import is_native, prepare
from s2s.checkpoint import loading
from s2s.config import compose
from s2s.errors import UserError
from s2s.models.adapting import adapt, own_names
from s2s.models.claims import step_departure
from s2s.models.transformer import Transformer
from s2s.nn.adapted import AdaptedLinear, plain
from tests.specs import text_spec
from tests.training.test_resume import SMALL, same_bits
from tests.training.test_trainer import one_error_line

V = 13
ADAPTERS = {"lora": ["adapter.rank=3", "adapter.alpha=5"], "bottleneck": ["adapter.width=5"]}
SIZE = [f"{side}.{key}" for side in ("encoder", "decoder")
        for key in ("layers=2", "width=16", "heads=2", "ffn_width=24")]  # fmt: skip
UNTRIED = {"converter", "language_layers", "multi_source"}  # they read tags or several sources


def model_of(*words: str, size: list[str] = SIZE) -> Transformer:
    """A small model with random weights in its adapters, too."""
    torch.manual_seed(0)
    built = compose.build(Transformer.Config, compose.by_key([compose.Override(*word.split("=", 1))
                                                              for word in [*size, "dropout=0", *words]]))  # fmt: skip
    built.fill()
    model = Transformer(built.config, text_spec(V))
    adapt(model, built.config.adapter)
    with torch.no_grad():
        for name in own_names(model):
            nn.init.normal_(model.get_parameter(name), std=0.3)
    return model.eval()


def adapted(model: nn.Module) -> dict[str, AdaptedLinear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, AdaptedLinear)}


def logits(model: nn.Module) -> torch.Tensor:
    from s2s.data.batch import Source

    ids = torch.tensor([[5, 6, 7, 3], [8, 3, 0, 0]])
    memory = model.encode((Source(ids, torch.tensor([4, 2])),))
    return model.decode(memory, torch.tensor([[2, 5, 6], [2, 9, 4]])).logits()


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_is_what_its_equation_says(kind):
    model = model_of(f"adapter={kind}", *ADAPTERS[kind])
    reference = model_of()
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert not missing
    assert set(unexpected) == own_names(model)
    for name, module in adapted(model).items():
        weights = dict(module.adapter.named_parameters())
        if kind == "lora":

            def hook(_, inputs, y, weights=weights):
                return y + 5 / 3 * torch.einsum("nr,rk,...k->...n", weights["up"], weights["down"], inputs[0])
        else:

            def hook(_, inputs, y, weights=weights):
                inner = torch.relu(y @ weights["down.weight"].T + weights["down.bias"])
                return y + inner @ weights["up.weight"].T + weights["up.bias"]

        reference.get_submodule(name).register_forward_hook(hook)
    torch.testing.assert_close(logits(model), logits(reference))
    assert not torch.allclose(logits(model), logits(model_of()), atol=0.1)
    expected = 2 * 4 + 2 * 7 if kind == "lora" else 2 * 2 + 2 * 3  # attention, cross-attention, feed-forward
    assert len(adapted(model)) == expected


@pytest.mark.slow
def test_lora_is_that_of_peft():
    from peft import LoraConfig, inject_adapter_in_model

    model = model_of("adapter=lora", *ADAPTERS["lora"])
    names = list(adapted(model))
    theirs = model_of()
    theirs.load_state_dict(model.state_dict(), strict=False)
    theirs = inject_adapter_in_model(LoraConfig(r=3, lora_alpha=5, target_modules=names), theirs)
    with torch.no_grad():
        for name, module in adapted(model).items():
            other = theirs.get_submodule(name)
            other.lora_A["default"].weight.copy_(module.adapter["down"])
            other.lora_B["default"].weight.copy_(module.adapter["up"])
    torch.testing.assert_close(logits(model), logits(theirs))
    for each in (model, theirs):
        logits(each).square().sum().backward()
    for name, module in adapted(model).items():
        other = theirs.get_submodule(name)
        torch.testing.assert_close(module.adapter["down"].grad, other.lora_A["default"].weight.grad)
        torch.testing.assert_close(module.adapter["up"].grad, other.lora_B["default"].weight.grad)
        other.merge()
        torch.testing.assert_close(module.plain().weight, other.get_base_layer().weight)


def test_lora_is_merged_and_decodes_with_the_kernels():
    model = model_of("adapter=lora")
    before = copy.deepcopy(model.state_dict())
    merged = model.merged()
    assert not adapted(merged)
    assert step_departure(merged) is None
    assert adapted(model)
    torch.testing.assert_close(logits(merged), logits(model))
    assert all(before[name].equal(value) for name, value in model.state_dict().items())
    assert merged.frontend.embedding.tokens.weight is model.frontend.embedding.tokens.weight
    assert is_native(prepare(model, "fp32", "auto"))
    assert is_native(prepare(model, "int8", "auto"))
    assert model_of().merged().__class__ is Transformer


def test_bottlenecks_decode_without_the_kernels(capsys):
    model = model_of("adapter=bottleneck")
    assert model.merged() is model
    assert "BottleneckLinear" in step_departure(model)
    assert not is_native(prepare(model, "fp32", "auto"))
    torch.testing.assert_close(logits(plain(model)), logits(model))
    torch.testing.assert_close(logits(prepare(model, "fp32", "eager")), logits(model), atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"decode.backend=native: .* is a Adapted"):
        prepare(model, "fp32", "native")


@pytest.mark.parametrize("kind", ["encoder", "layer", "decoder"])
def test_every_adapter_of_every_part_is_used(kind):
    """A part that reads a matrix instead of calling its linear map would leave an adapter without a gradient."""
    from tests.models.test_matrix import ELSEWHERE, NEEDED, size_of

    for name in registry.COMPONENTS[kind]:
        if (kind, name) in ELSEWHERE or name in UNTRIED:
            continue
        where = "encoder.layer" if kind == "layer" else kind
        size = [word.removeprefix("model.") for word in size_of(kind, name)]
        words = [f"{where}={name}", *(word.removeprefix("model.") for word in NEEDED.get((kind, name), []))]
        if name == "none":
            words.append("adapter.parts=[decoder]")
        model = model_of(*words, "adapter=lora", size=size).train()
        for module in model.modules():
            if hasattr(module, "begin_update"):
                module.begin_update(1)
        logits(model).square().sum().backward()
        unused = [each for each in own_names(model) if model.get_parameter(each).grad is None]
        assert not unused, (kind, name, unused)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["adapter.parts=[encoder.layres]"], "'encoder.layres' matches no linear map of the model; did you mean "
         "'encoder.layers'"),
        (["adapter.parts=[output]"], "output shares its matrix with another part of the model"),
        (["adapter.trained=[norms]"], "model.adapter.trained: 'norms' matches no parameter"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(words, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        model_of("adapter=lora", *words)


def trained(store, run, *more):
    return [*SMALL, f"store={store}", f"run={run}", "train.valid_updates=1000", "train.log_updates=10", *more]


@pytest.fixture(scope="module")
def parent(store, tmp_path_factory):
    from tests.conftest import _call

    run = tmp_path_factory.mktemp("parent") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert _call(monkeypatch, "s2s_cli.train", *trained(store, run, "train.max_updates=30", "optim.lr=3e-3")) == 0
    return run


@pytest.mark.parametrize("kind", ADAPTERS)
def test_training_changes_the_adapters_alone_and_resumes(store, parent, tmp_path, s2s, capsys, monkeypatch, kind):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    words = [f"train.init.checkpoint={parent}", f"model.adapter={kind}", "optim.lr=3e-3", "train.samples=2",
             "train.valid_updates=20", *(f"model.{word}" for word in ADAPTERS[kind])]  # fmt: skip
    assert s2s("train", *trained(store, whole, *words, "train.max_updates=20")) == 0
    assert "frozen: " in capsys.readouterr().err
    for most in (9, 20):
        assert s2s("train", *trained(store, parts, *words, f"train.max_updates={most}")) == 0
    same_bits(whole, parts)
    before, after = (load_file(run / "last/model.safetensors") for run in (parent, whole))
    assert all(after[name].equal(value) for name, value in before.items())
    states = load_file(whole / "last/training.safetensors")
    assert states
    assert all(".adapter." in name for name in states)
    assert {name.partition(".")[2] for name in states if name.startswith("exp_avg.")} == after.keys() - before.keys()
    model, _task, config = loading.load_model(str(whole))
    assert bool(adapted(model)) == (kind == "bottleneck")
    # The average of one checkpoint is the checkpoint, merged where that is possible.
    assert s2s("average", f"checkpoint={whole}", f"output={tmp_path}/merged") == 0
    merged = load_file(tmp_path / "merged/model.safetensors")
    assert (merged.keys() == before.keys()) == (kind == "lora")
    again, _, config = loading.load_model(str(tmp_path / "merged"))
    assert (config["model"]["adapter"] is None) == (kind == "lora")
    for name, value in model.named_parameters():
        assert value.equal(again.get_parameter(name)), name
    capsys.readouterr()
    exported = s2s("export", f"checkpoint={whole}", f"output={tmp_path}/exported")
    if kind == "bottleneck":
        assert exported == 2
        assert "is a BottleneckLinear" in capsys.readouterr().err
    else:
        assert exported == 0


def test_an_adapter_needs_a_trained_model(store, tmp_path, s2s, capsys):
    assert s2s("train", *trained(store, tmp_path / "run", "model.adapter=lora")) == 2
    assert "train.init.checkpoint=RUN supplies its weights" in one_error_line(capsys)


def test_an_average_of_strangers_is_warned_of(store, parent, tmp_path, s2s, capsys):
    """Two seeds have nothing in common; two runs that began with one checkpoint do, and so does that checkpoint."""
    other, first, second = (tmp_path / name for name in ("other", "first", "second"))
    assert s2s("train", *trained(store, other, "train.max_updates=1", "seed=2")) == 0
    for run, seed in ((first, 3), (second, 4)):
        words = [f"train.init.checkpoint={parent}", "train.max_updates=1", f"seed={seed}"]
        assert s2s("train", *trained(store, run, *words)) == 0
    for runs, strangers in (([parent, other], 2), ([first, second, parent], 0), ([first, second, other], 2)):
        capsys.readouterr()
        output = f"output={tmp_path / 'mean'}"
        assert s2s("average", f"checkpoint=[{','.join(map(str, runs))}]", output, "overwrite=true") == 0
        warned = f"warning: the checkpoints come from {strangers} trainings" in capsys.readouterr().err
        assert warned == bool(strangers)
    assert s2s("average", f"checkpoint=[{tmp_path / 'mean'},{parent}]", f"output={tmp_path / 'again'}") == 0
    assert "warning" not in capsys.readouterr().err


def test_more_can_be_trained_beside(store, parent, tmp_path, s2s):
    run = tmp_path / "run"
    words = [f"train.init.checkpoint={parent}", "model.adapter=lora", "model.adapter.trained=[embeddings]"]
    assert s2s("train", *trained(store, run, *words, "train.max_updates=3", "optim.lr=1e-3")) == 0
    before, after = (load_file(each / "last/model.safetensors") for each in (parent, run))
    changed = {name for name, value in before.items() if not value.equal(after[name])}
    assert changed == {"frontend.embedding.tokens.weight"}
