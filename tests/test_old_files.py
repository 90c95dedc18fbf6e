"""A store and a run of s2s 0.1 are read, and give what they gave then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

OLD = Path(__file__).with_name("fixtures") / "format1"
EXPECTED = json.loads((OLD / "expected.json").read_text())


def test_a_run_decodes_an_old_store(s2s, tmp_path):
    output = tmp_path / "output.json"
    words = (f"checkpoint={OLD / 'run'}", f"store={OLD / 'store'}", "format=json", f"output={output}", "device=cpu")
    assert s2s("generate", *words) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["hypothesis"] for row in rows] == [text for text, _ in EXPECTED["hypotheses"]]
    assert [row["score"] for row in rows] == pytest.approx([score for _, score in EXPECTED["hypotheses"]], abs=1e-4)


def config_of(folder: Path) -> Path:
    """The old run's config with its criterion as it is written now."""
    lines = (OLD / "run" / "config.yaml").read_text().splitlines()
    start = lines.index("criterion:")
    end = next(number for number in range(start + 1, len(lines)) if not lines[number].startswith(" "))
    file = folder / "config.yaml"
    file.write_text("\n".join([*lines[:start], "criterion: auxiliary", *lines[end:]]))
    return file


def test_an_option_that_has_moved_is_named(s2s, tmp_path, capsys):
    assert s2s("train", "--config", str(OLD / "run" / "config.yaml"), f"run={tmp_path / 'run'}") == 2
    assert "config.yaml:38: criterion.label_smoothing is now criterion.cross_entropy.label_smoothing" in (
        capsys.readouterr().err
    )


def test_a_run_goes_on(s2s, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(OLD / "run", run, symlinks=True)
    config = {"store": OLD / "store", "run": run, "train.max_updates": 30}
    words = [f"{key}={value}" for key, value in config.items()]
    assert s2s("train", "--config", str(config_of(tmp_path)), *words) == 0
    said = capsys.readouterr().err
    assert "resuming" in said
    assert "note: criterion" not in said  # the terms are those that there were, under new names
    weights = load_file(run / "checkpoints" / "step_00000030" / "model.safetensors")
    norms = sorted(float(np.linalg.norm(tensor)) for tensor in weights.values())
    assert norms == pytest.approx(EXPECTED["norms_at_30"], rel=1e-3)


def test_a_checkpoint_starts_another_run(s2s, tmp_path, capsys):
    words = ["--config", str(config_of(tmp_path)), f"store={OLD / 'store'}", f"run={tmp_path / 'run'}"]
    assert s2s("train", *words, "train.max_updates=1", f"train.init.checkpoint={OLD / 'run'}") == 0
    assert "init: embeddings, encoder, decoder" in capsys.readouterr().err
