"""`make bench` runs through, and says what it measured on what; no time is looked at."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.plain_batches import sorted_then_cut

RUN = Path(__file__).with_name("run.py")
NAMES = (
    "start", "preprocess", "padding", "planning", "scaling", "busy", "training", "batching", "unpad", "decoding",
    "quantization", "joint",
)  # fmt: skip


@pytest.mark.slow
def test_quick_benchmarks_write_their_figures(tmp_path):
    done = subprocess.run(
        [sys.executable, RUN, "--quick", "--device=cpu", f"--results={tmp_path}"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    reports = {name: json.loads((tmp_path / f"{name}-cpu.json").read_text()) for name in NAMES}
    for name, report in reports.items():
        assert {"benchmark", "date", "device", "versions", "text", "quick", "reference", "rows"} == set(report)
        assert {"type", "name", "cores", "threads"} == set(report["device"])
        assert {"s2s", "python", "torch"} <= set(report["versions"])
        assert report["benchmark"] == name
        assert report["text"] == "made-up text"
        assert f"{name}: " in done.stdout
        for row in report["rows"]:
            assert set(row) == {"case", "figure", "ours", "reference", "ratio", "ratio_range"}
            assert row["figure"] in done.stdout
    figures = {name: {row["figure"] for row in report["rows"]} for name, report in reports.items()}
    assert figures["start"] == {"seconds"}
    assert figures["preprocess"] == {"lines/s", "tokens/s"}
    assert figures["padding"] == {
        "batches", "source padding, %", "target padding, %", "padding, %", "kept together, %"
    }  # fmt: skip
    assert figures["planning"] == {
        "an epoch, seconds", "pairs/s", "peak memory, MB", "first batch, seconds", "resuming, seconds"
    }  # fmt: skip
    assert {"target tokens/s, fairseq's scheme", "peak memory over that before, MiB, fairseq's scheme",
            "seconds an update"} <= figures["training"]  # fmt: skip
    assert figures["batching"] == {"target tokens/s", "target tokens a batch", "padding, %"}
    assert figures["scaling"] == figures["busy"] == {"target tokens/s"}
    assert figures["joint"] == {"recordings/s", "GFLOP/s"}
    assert figures["unpad"] == {"real tokens/s"}
    assert {"GFLOP/s", "sentences/s", "the reference's hypotheses, %"} <= figures["quantization"]
    assert {"sentences/s, ctranslate2-int8 (1 x 1, 8 examples)", "sentences/CPU s, huggingface-fp32",
            "share of the floor, % of CPU time", "pages touched for the first time"} <= figures["decoding"]  # fmt: skip


def test_a_ratio_that_differs_between_rounds_is_called_noise(monkeypatch):
    monkeypatch.syspath_prepend(RUN.parent)
    measure = importlib.import_module("measure")
    rows = [measure.Paired([2.0, 2.0, 2.0], [1.0, 1.0, slowest]).row("case", "s") for slowest in (0.7, 0.6)]
    assert [row.noise for row in rows] == [False, True]
    assert ["noise" in line for line in measure.table(rows).splitlines()[1:]] == [False, True]


def test_unknown_name_is_refused():
    done = subprocess.run([sys.executable, RUN, "speling"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "speling" in done.stderr
    assert "preprocess" in done.stderr


def test_fairseqs_batches_hold_every_example_once_within_the_budget():
    rng = np.random.default_rng(1)
    source, target = rng.integers(1, 40, (2, 3000))
    plan = sorted_then_cut(source, target, 2000, rng)
    assert sorted(np.concatenate(plan.batches)) == list(range(3000))
    costs = [len(batch) * max(source[batch].max(), target[batch].max()) for batch in plan.batches]
    assert max(costs) <= 2000
    assert np.mean(costs) > 1600  # cutting to multiples of 8 takes the rest
    assert sum(len(batch) % 8 > 0 and len(batch) > 8 for batch in plan.batches) <= 1  # the last one
