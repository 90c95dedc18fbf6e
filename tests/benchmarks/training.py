"""Training a small Transformer (3+3 layers, d256, V 8k) and a base one (6+6, d512, V 32k) at 4096 tokens a batch.

Each contender of `trainers.py` trains the same architecture on the same text in a process of its own, in turns. Those
of other people are there if they are installed: `pip install joeynmt eole` (in an environment of their own, with
--no-deps and what they then miss: their pins exclude each other).
"""

import statistics
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from corpus import Corpus
from measure import Paired, Row
from trainers import Apart, Setting, fairseqs_scheme, has_bf16, installed

REFERENCE = "the contender that a figure names; fairseq's scheme: a plain Transformer in fairseq's manner"
MODELS = {"small": ("transformer_small", None), "base": ("transformer_base", 32_000)}  # preset, V
QUICK = {"tiny": ("transformer_tiny", None)}
ROUNDS, BATCHES = 5, {"cpu": {"small": 3, "base": 1, "tiny": 2}, "cuda": {"small": 20, "base": 20, "tiny": 2}}


def run(
    corpus: Corpus, device: str, quick: bool, cases: str = "*", contenders: str = "*", rounds: str | None = None
) -> list[Row]:
    """Measure in fp32, and in bf16 where the device computes in it."""
    rows = []
    for size, (preset, symbols) in (QUICK if quick else MODELS).items():
        for precision in ("fp32", "bf16") if has_bf16(device) else ("fp32",):
            case = f"{size}-{precision}"
            if any(fnmatchcase(case, pattern) for pattern in cases.split(",")):
                print(f"{case} ...", flush=True)
                budget = 512 if quick else 4096
                setting = {"store": corpus.store, "preset": preset, "symbols": symbols, "budget": budget,
                           "precision": precision, "device": device}  # fmt: skip
                names = [name for name in installed() if any(fnmatchcase(name, p) for p in contenders.split(","))]
                several = int(rounds or (1 if quick else ROUNDS))
                rows += _measure(case, setting, names, several, BATCHES[device][size])
    check(corpus.store, device)
    return rows


def _measure(case: str, setting: dict, names: list[str], rounds: int, batches: int) -> list[Row]:
    running = {name: Apart(name, setting) for name in names}
    try:
        for one in running.values():
            one.ask("round", 0, rounds, batches)
        done = {name: [] for name in names}
        for number in range(rounds):
            for name, one in running.items():
                done[name].append(one.ask("round", number, rounds, batches))
        speeds = {name: [tokens / seconds for tokens, seconds in some] for name, some in done.items()}
        memory = {name: one.ask("memory") for name, one in running.items()}
        products = {name: 100 * one.ask("products", batches) for name, one in running.items()}
        seconds = statistics.median(seconds for _, seconds in done["s2s"]) / batches
    finally:
        for one in running.values():
            one.close()
    others = [name for name in names if name != "s2s"]
    rows = [Paired(speeds["s2s"], speeds[name]).row(case, f"target tokens/s, {name}") for name in others]
    rows += [
        Row(case, f"peak memory over that before, MiB, {name}", memory["s2s"], memory[name],
            memory["s2s"] / memory[name]) for name in others
    ]  # fmt: skip
    figure = "time in matrix products, attention's apart, %"
    rows += [Row(case, f"{figure}, {name}", products["s2s"], products[name]) for name in others]
    return [*rows, Row(case, "seconds an update", seconds)]


def check(store: Path, device: str) -> None:
    """Ours and the plain Transformer compute one loss. Raises RuntimeError."""
    setting = Setting(store, "transformer_tiny", None, 512, "fp32", device)
    plain = fairseqs_scheme(setting)
    batch = setting.dataset.collate(torch.arange(8).numpy()).to(device)
    with torch.no_grad():
        plain.model.eval()
        ours = float(setting.task.criterion(setting.config.criterion)(setting.model().to(device).eval(), batch).sum)
        reference = float(plain.loss(batch))
    if abs(ours - reference) > 1e-4 * abs(reference):
        raise RuntimeError(f"the losses differ: {ours} of s2s, {reference} of the reference")
