"""What is frozen stays, what has a rate of its own moves at it, and stages follow each other."""

import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2s.config.compose import compose
from s2s.models.encoders.transformer import EncoderConfig
from s2s.models.parts import part_of, select
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import Transformer, TransformerConfig
from s2s.optim.adam import Adam, AdamConfig
from s2s.optim.groups import GroupConfig, parameter_groups
from s2s.training.stages import Stages
from s2s_cli.train import TrainCommand
from tests.specs import text_spec
from tests.training.test_resume import SMALL, same_bits
from tests.training.test_trainer import one_error_line


def words(store, run, *more):
    return [*SMALL, f"store={store}", f"run={run}", "train.valid_updates=1000", "train.keep_last=99", *more]


def step(run: Path, update: int, file: str = "model") -> dict[str, torch.Tensor]:
    return load_file(run / f"checkpoints/step_{update:08d}/{file}.safetensors")


def moved(run: Path, first: int, last: int) -> dict[str, bool]:
    before, after = step(run, first), step(run, last)
    return {name: not before[name].equal(after[name]) for name in before}


def model(**options) -> Transformer:
    torch.manual_seed(0)
    stacks = {"encoder": EncoderConfig(3, 16, 2, None, 32), "decoder": DecoderConfig(2, 16, 2, None, 32)}
    return Transformer(TransformerConfig(**stacks, **options), text_spec(12))


def test_patterns_of_names():
    untied = model(tie_embeddings="none")
    names = [name for name, _ in untied.named_parameters()]

    def selected(*patterns):
        return select(untied, patterns, "train.freeze")

    for part in ("embeddings", "encoder", "decoder"):
        assert selected(part) == {name for name in names if part_of(name) == part}
    assert selected("encoder.layers.0", "encoder.layers.2") == {
        n for n in names if n.startswith(("encoder.layers.0.", "encoder.layers.2."))
    }
    assert selected("decoder.layers.*.cross") == {name for name in names if ".cross." in name}
    assert selected("*norm*") == {name for name in names if "norm" in name}
    assert selected("*") == set(names)
    # A shared matrix goes by any of its names.
    assert select(model(), ["output"], "train.freeze") == {"frontend.embedding.tokens.weight"}


@pytest.mark.parametrize(
    ("pattern", "near"),
    [
        ("encodr", "encoder"),
        ("decoder.layers.0.atention", "decoder.layers.0.attention"),
        ("encoder.layers.7", "encoder.layers.2"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_names_the_nearest(store, tmp_path, s2s, capsys, pattern, near):
    options = ["model.encoder.layers=3"]
    for key in (f"train.freeze=[{pattern}]", f"train.stages=[{{updates:3}},{{freeze:[{pattern}]}}]",
                f"optim.groups=[{{parameters:[{pattern}]}}]"):  # fmt: skip
        capsys.readouterr()
        assert s2s("train", *words(store, tmp_path / "run", *options, key)) == 2
        assert f"'{pattern}' matches no parameter of the model; did you mean '{near}'?" in one_error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_frozen_parts_stay_and_have_no_optimizer_state(store, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    options = ["train.freeze=[encoder,*norm]", "train.max_updates=6", "train.checkpoint_updates=1"]
    assert s2s("train", *words(store, run, *options)) == 0
    assert "frozen: 8,864 of 21,952 parameters" in capsys.readouterr().err
    changes = moved(run, 1, 6)
    for name, has_moved in changes.items():
        assert has_moved == (part_of(name) != "encoder" and "norm" not in name), name
    state = {name.split(".", 1)[1] for name in step(run, 6, "training")}
    assert state == {name for name, has_moved in changes.items() if has_moved}


@pytest.mark.parametrize("options", [
    ["train.freeze=[encoder]"],
    ["train.stages=[{updates:4,freeze:[encoder,embeddings]},{updates:5,factor:0.5,freeze:[decoder]},{}]",
     "train.ema=0.9", "train.accumulate=2"],
    ["optim.groups=[{parameters:[encoder],factor:0.1,warmup_updates:3}]", "optim.layer_decay=0.5", "optim=adamw"],
    ["criterion=r_drop", "model.dropout=0.2"],
])  # fmt: skip
def test_resumes_bit_identical(store, tmp_path, s2s, options):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert s2s("train", *words(store, whole, *options, "train.max_updates=12", "optim.schedule=constant")) == 0
    for stop in (1, 4, 5, 9, 11, 12):  # at the end of a stage, and in the middle of one
        stopped = [f"train.max_updates={stop}", "optim.schedule=constant"]
        assert s2s("train", *words(store, pieces, *options, *stopped)) == 0
    first, second = (load_file(run / "last/model.safetensors") for run in (whole, pieces))
    assert all(first[name].equal(second[name]) for name in first)
    first, second = (load_file(run / "last/training.safetensors") for run in (whole, pieces))
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)


def test_killed_in_a_stage_ends_where_the_undisturbed_run_ends(store, tmp_path, s2s, spawn):
    options = ["train.stages=[{updates:10,freeze:[encoder,embeddings]},{updates:10,factor:0.5},{freeze:[decoder]}]",
               "train.max_updates=30", "train.checkpoint_updates=4", "workers=2"]  # fmt: skip
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert s2s("train", *words(store, whole, *options)) == 0
    process = spawn("train", *words(store, killed, *options))
    while process.poll() is None and not (killed / "checkpoints/step_00000012").exists():
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert s2s("train", *words(store, killed, *options)) == 0
    same_bits(whole, killed)


def test_stages_freeze_and_free_and_keep_what_the_optimizer_knows(store, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    stages = "train.stages=[{updates:3,freeze:[encoder,embeddings]},{updates:2,freeze:[decoder]},{}]"
    assert s2s("train", *words(store, run, stages, "train.max_updates=7", "train.checkpoint_updates=1")) == 0
    errors = capsys.readouterr().err
    assert [line.split(" | ")[0] for line in errors.splitlines() if line.startswith("stage ")] == [
        "stage 1 of 3", "stage 2 of 3", "stage 3 of 3"
    ]  # fmt: skip
    trained = {(1, 3): {"decoder"}, (3, 5): {"embeddings", "encoder"}, (5, 7): {"embeddings", "encoder", "decoder"}}
    for (first, last), parts in trained.items():
        changes = moved(run, first, last)
        assert {part_of(name) for name, has_moved in changes.items() if has_moved} == parts
        state = {part_of(name.split(".", 1)[1]) for name in step(run, last, "training")}
        assert state == parts
    steps = {part_of(key[5:]): int(value) for key, value in step(run, 7, "training").items() if key[:5] == "step."}
    # What was trained in the stage before goes on; what was frozen in it begins anew.
    assert steps == {"embeddings": 4, "encoder": 4, "decoder": 2}


RATES = ["optim.schedule=constant", "optim.warmup_updates=0", "optim.eps=0"]


def test_a_stage_has_a_factor_and_groups_of_its_own(store, tmp_path, s2s):
    start, run = tmp_path / "start", tmp_path / "run"
    options = [*RATES, "optim.lr=1e-3", "optim.groups=[{parameters:[decoder],factor:0.1}]",
               "train.stages=[{updates:1,factor:0.5},{groups:[{parameters:[encoder],factor:3}]}]"]  # fmt: skip
    assert s2s("train", *words(store, start, *RATES, "optim.lr=0", "train.max_updates=1")) == 0
    assert s2s("train", *words(store, run, *options, "train.max_updates=2", "train.checkpoint_updates=1")) == 0
    # Adam's first step is the learning rate, whatever the gradient is.
    before, after = step(start, 1), step(run, 1)
    for name, rate in (
        ("encoder.layers.0.attention.qkv.weight", 5e-4),
        ("decoder.layers.0.attention.qkv.weight", 5e-5),
    ):
        assert float((after[name] - before[name]).abs().max()) == pytest.approx(rate, rel=1e-2)
    config = compose(TrainCommand, [tuple(word.split("=", 1)) for word in words(store, run, *options)])
    net = model()
    stages, names = Stages(config, net), {id(p): name for name, p in net.named_parameters()}
    for update, expected in (
        (1, {"embeddings": 5e-4, "encoder": 5e-4, "decoder": 5e-5}),
        (2, {"embeddings": 1e-3, "encoder": 3e-3, "decoder": 1e-3}),
    ):
        optimizer = stages.enter(stages.at(update))
        stages.set_rates(optimizer, update)
        rates = {part_of(names[id(p)]): group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert rates == pytest.approx(expected)


@pytest.mark.slow
def test_several_processes_go_through_the_same_stages(store, tmp_path, s2s, spawn):
    one, two = tmp_path / "one", tmp_path / "two"
    options = ["train.stages=[{updates:4,freeze:[encoder,embeddings]},{updates:3,freeze:[decoder]},{}]",
               "data.group=2", "train.max_updates=10"]  # fmt: skip
    assert s2s("train", *words(store, one, *options, "train.accumulate=2")) == 0
    process = spawn("train", *words(store, two, *options, "distributed.processes=2"))
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    for file in ("model", "training"):
        first, second = step(one, 10, file), step(two, 10, file)
        assert first.keys() == second.keys()
        for name in first:
            torch.testing.assert_close(first[name], second[name], rtol=1e-3, atol=1e-5)


def test_a_group_moves_at_its_own_rate_and_warms_up_by_itself(store, tmp_path, s2s):
    first, second = tmp_path / "first", tmp_path / "second"
    options = [*RATES, "train.max_updates=1", "optim.lr=1e-3"]
    assert s2s("train", *words(store, first, *options[:-1], "optim.lr=0")) == 0
    groups = "{parameters:[encoder.layers.0.feedforward],factor:0.1},{parameters:[*attention],warmup_updates:4}"
    assert s2s("train", *words(store, second, *options, f"optim.groups=[{groups}]")) == 0
    start, end = step(first, 1), step(second, 1)

    def largest_step(name: str) -> float:
        return float((end[name] - start[name]).abs().max())

    # Adam's first step is the learning rate, whatever the gradient is.
    assert largest_step("encoder.layers.0.feedforward.inner.weight") == pytest.approx(1e-4, rel=1e-2)
    assert largest_step("encoder.layers.0.attention.qkv.weight") == pytest.approx(2.5e-4, rel=1e-2)
    assert largest_step("decoder.layers.0.cross.query.weight") == pytest.approx(1e-3, rel=1e-2)


def test_layer_decay():
    factors = {}
    net = model()
    names = {id(p): name for name, p in net.named_parameters()}
    groups = [GroupConfig(["decoder.layers.0.cross"], 10.0)]
    for group in parameter_groups(net, AdamConfig(layer_decay=0.5, weight_decay=0.1, groups=groups)):
        assert all(group["weight_decay"] == (0.1 if p.ndim > 1 else 0) for p in group["params"])
        factors |= {names[id(p)]: group["factor"] for p in group["params"]}
    assert factors["encoder.layers.2.attention.qkv.weight"] == 1
    assert factors["encoder.layers.1.attention.qkv.bias"] == 0.5
    assert factors["encoder.layers.0.feedforward_norm.weight"] == 0.25
    assert factors["frontend.embedding.tokens.weight"] == 0.125  # under three layers
    assert factors["decoder.layers.1.attention.qkv.weight"] == 1
    assert factors["decoder.layers.0.attention.qkv.weight"] == 0.5
    assert factors["decoder.layers.0.cross.query.weight"] == 5
    assert factors["encoder.norm.weight"] == factors["decoder.norm.weight"] == 1
    assert len(factors) == len(names)
    assert len(Adam(AdamConfig()).build(net).param_groups) == 1
    assert len(Adam(AdamConfig(weight_decay=0.1)).build(net).param_groups) == 2


@pytest.mark.parametrize(("option", "message"), [
    ("train.freeze=['*']", "train.freeze: nothing is left to train"),
    ("train.stages=[{freeze:[encoder]},{}]", "train.stages[0]: requires updates=NUMBER"),
    ("train.stages=[{updates:5},{updates:5}]", "train.stages[1].updates: the last stage ends with train.max_updates"),
    ("optim.groups=[{parameters:[encoder]},{parameters:['*attention']}]", "is in two of them, 0 and 1"),
])  # fmt: skip
def test_contradictions_are_told_before_the_folder_is_made(store, tmp_path, s2s, capsys, option, message):
    assert s2s("train", *words(store, tmp_path / "run", option)) == 2
    assert message in one_error_line(capsys)
    assert not (tmp_path / "run").exists()


def test_what_is_frozen_may_not_change_when_a_run_goes_on(store, tmp_path, s2s, capsys):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=2", "train.freeze=[encoder]")) == 0
    capsys.readouterr()
    assert s2s("train", *words(store, run, "train.max_updates=4")) == 2
    assert "train.freeze was ['encoder'] and is now []" in one_error_line(capsys)
