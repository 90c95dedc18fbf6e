"""A model that is spread over processes makes the run that one process makes, and its checkpoints go anywhere."""

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from tests.training.test_distributed import NO_NOISE, assert_one_run, finished, losses, state
from tests.training.test_resume import words

FSDP = "distributed.strategy=fsdp"


def test_shards_make_the_same_run_and_go_on_in_one_process_and_back(store, tmp_path, s2s, together, capsys):
    """2 -> 1 -> 2 processes; clipping, averaging, frozen parts, accumulated batches, decoded validation."""
    options = ["train.ema=0.9", "train.valid_metrics=[chrf,loss]", "train.freeze=[encoder.layers.0.attention]",
               "train.log_updates=1", "data.group=4", "train.clip_norm=0.5", "train.valid_updates=10", NO_NOISE,
               "distributed.strategy=ddp"]  # fmt: skip
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    assert s2s("train", *words(store, whole, *options, "train.accumulate=4", "train.max_updates=20")) == 0
    shared = [*options, FSDP, "train.accumulate=2"]
    finished(together(2, store, pieces, *shared, "train.max_updates=10"))
    files = sorted((pieces / "last/training").iterdir())
    assert len(files) == 2
    manifest = json.loads((pieces / "last/manifest.json").read_text())
    assert {f"training/{file.name}" for file in files} < manifest["files"].keys()
    first, second = (sum(value.numel() for value in load_file(file).values()) for file in files)
    assert abs(first - second) < 0.05 * (first + second)
    assert s2s("generate", f"checkpoint={pieces}/best", f"input={store.parent}/test.src", "device=cpu",
               f"output={tmp_path}/out") == 0  # fmt: skip
    capsys.readouterr()
    assert s2s("train", *words(store, pieces, *options, "train.accumulate=4", "train.max_updates=14")) == 0
    assert "distributed.strategy changes from fsdp to ddp" in capsys.readouterr().err
    finished(together(2, store, pieces, *shared, "train.max_updates=20"))
    np.testing.assert_allclose(losses(pieces), losses(whole), rtol=1e-4)
    validated = [state(run)["progress"]["last_metrics"] for run in (whole, pieces)]
    assert validated[0].pop("chrf") == pytest.approx(validated[1].pop("chrf"), rel=0.02)  # a near tie may go either way
    assert validated[0] == pytest.approx(validated[1], rel=1e-4)
    for run in (whole, pieces):  # one more update, so that the optimizer's state is in one file, too
        last = ["train.accumulate=4", "train.max_updates=21", "train.valid_metrics=[loss]"]
        assert s2s("train", *words(store, run, *options, *last)) == 0
    assert_one_run(whole, pieces)


def test_what_cannot_be_sharded_is_told(store, tmp_path, s2s, capsys):
    assert s2s("train", *words(store, tmp_path / "run", FSDP)) == 2
    assert "distributed.strategy=fsdp: requires several processes" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["train.precision=bf16", "train.checkpoint_activations=true"],
        ["criterion=r_drop", "train.checkpoint_activations=true"],
        ["train.stages=[{updates:5,freeze:[encoder,embeddings]},{factor:0.5,freeze:[decoder.layers.0.cross]}]"],
    ],
    ids=["bf16", "r-drop", "stages"],
)
def test_shards_make_the_same_run_with(store, tmp_path, s2s, together, options):
    one, two = tmp_path / "one", tmp_path / "two"
    options = [*options, "train.log_updates=1", "data.group=2", "train.max_updates=12", "train.ema=0.9", NO_NOISE]
    assert s2s("train", *words(store, one, *options, "train.accumulate=2")) == 0
    finished(together(2, store, two, *options, FSDP))
    rounding = 1e-2 if "bf16" in options[0] else 1e-4
    np.testing.assert_allclose(losses(two), losses(one), rtol=rounding)
    a, b = (load_file(run / "last/model.safetensors") for run in (one, two))
    assert {name: (value.shape, value.dtype) for name, value in a.items()} == {
        name: (value.shape, value.dtype) for name, value in b.items()
    }


def test_a_loss_that_is_not_finite_and_a_save_that_fails_are_known_to_all(store, tmp_path, together):
    trouble = """
import resource
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
if rank == 1 and updates in (3, 4): loss.sum = loss.sum * float('nan')
if rank == 1 and updates == 6: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, resource.RLIM_INFINITY))
if rank == 1 and updates == 8: time.sleep(1)  # the thread saves
if rank == 1 and updates == 8: resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
"""
    run = tmp_path / "run"
    finished(together(2, store, run, "train.max_updates=10", "train.valid_updates=10", FSDP, trouble=trouble))
    assert state(run)["progress"]["skipped"] == 2
    assert state(run)["progress"]["update"] == 10
    log = (run / "train.log").read_text()
    assert "warning: the checkpoint of update 7 could not be saved: " in log
    assert "(process 1)" in log
    assert [folder.name for folder in sorted((run / "checkpoints").iterdir())] == ["step_00000010"]


@pytest.mark.slow
def test_a_part_that_is_damaged_is_found(store, tmp_path, s2s, together, capsys):
    run = tmp_path / "run"
    finished(together(2, store, run, "train.max_updates=14", FSDP))
    file = max((run / "last").resolve().glob("training/*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert s2s("train", *words(store, run, "train.max_updates=15", "train.accumulate=2")) == 0
    said = capsys.readouterr().err
    assert f"step_00000014/training/{file.name}: its content differs from what was saved" in said
    assert "resuming from step_00000007" in said
