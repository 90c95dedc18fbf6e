"""s2s-train in two processes beside one: the same updates of a small Transformer, on the same cores of one machine.

One process has a thread for each core, two processes share the cores and exchange gradients with gloo; an update has
4096 tokens in all, half of them in each. What the exchange and the second process cost is what the ratio lacks to 1.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from corpus import Corpus
from measure import Paired, Row

REFERENCE = "one process"


def run(corpus: Corpus, device: str, quick: bool, rounds: str | None = None) -> list[Row]:
    """Measure one and two processes in turns."""
    preset, budget, updates = ("transformer_tiny", 512, 4) if quick else ("transformer_small", 4096, 24)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    speeds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(int(rounds or (1 if quick else 3))):
        for processes, found in speeds.items():
            threads = max(1, cores // processes)
            found.append(rate(corpus.store, preset, budget // processes, updates, processes, threads))
    return [Paired(speeds[2], speeds[1]).row("two processes", "target tokens/s")]


def rate(store: Path, preset: str, budget: int, updates: int, processes: int, threads: int, **setting: str) -> float:
    """Real target tokens a second of a run of s2s-train, the median over its intervals but for the first. `setting`:
    variables of its environment."""
    every = max(1, updates // 6)
    with tempfile.TemporaryDirectory() as folder:
        words = [
            f"store={store}", f"run={folder}/run", f"model={preset}", f"data.batch_tokens={budget}", "device=cpu",
            "data.verify=false", f"distributed.processes={processes}", f"train.max_updates={updates}",
            f"train.log_updates={every}", "train.samples=0", "train.loggers=[]", "train.precision=fp32",
        ]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **setting}
        subprocess.run(
            [sys.executable, "-m", "s2s_cli.train", *words], check=True, capture_output=True, env=environment
        )
        lines = map(json.loads, Path(folder, "run/metrics.jsonl").read_text(encoding="utf-8").splitlines())
        rates = [line["target_tokens_per_second"] for line in lines if line["kind"] == "train"]
    return statistics.median(rates[1:])
