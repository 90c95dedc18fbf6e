"""The benchmark of a GPU runs through on the stand-in; its figures mean nothing there."""

import json

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_through(child, tmp_path):
    figures = child("benchmark", "--quick", f"--output={tmp_path / 'gpu.json'}")
    failed = {name: value for name, value in figures.items() if str(value).startswith("failed")}
    assert not failed
    assert json.loads((tmp_path / "gpu.json").read_text()).keys() == figures.keys()
    assert {"attention", "updates", "steps", "half", "resume", "others"} <= figures.keys()
    assert figures["resume"] == {"train.deterministic=false": "same bits", "train.deterministic=true": "same bits"}
    assert figures["updates"]["transformer_tiny, 500 tokens"]["ms"] > 0
    assert figures["steps"]["steps"] > 5
    assert isinstance(figures["others"]["s2s-bf16"], float)
