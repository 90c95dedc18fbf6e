"""Runs that are disturbed: their options, and what they have left."""

import json
from pathlib import Path

from s2s.checkpoint import runs
from tests.training.test_resume import SMALL


def words(store, run, *more):
    return [*SMALL, f"store={store}", f"run={run}", "train.max_updates=20", "train.checkpoint_updates=3",
            "train.valid_updates=8", "train.log_updates=4", "train.keep_last=3", *more]  # fmt: skip


def nothing_half_written(run: Path) -> None:
    assert not [path for path in run.rglob(".*") if path.name.startswith((".partial", ".removed"))]
    for folder in runs.steps(run):
        runs.verify(folder)


def events(run: Path, kind: str) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]
