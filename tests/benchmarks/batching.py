"""The training step of a small Transformer (3+3 layers, d256) on batches of every strategy, beside random ones.

The same trainer updates on all of them in turn, so that only the batches differ; collation is in the measured time.
The reference is a fixed number of sentences in random order; fairseq's scheme (sort by length, then cut) stands beside.
Budgets are such that all make as many batches of an epoch as token_budget does of 4096 tokens, and so have as many real
tokens in a batch. Each round takes batches evenly from the shortest to the longest of each plan. Only real target
tokens count.
"""

from collections.abc import Callable

import numpy as np
import torch
from corpus import Corpus
from measure import Paired, Row, interleaved
from plain_batches import fixed_size, padding_share, sorted_then_cut
from trainers import Ours, Setting, has_bf16, spread

from s2s.data.plan import STRATEGIES, Plan, PlanConfig, plan

REFERENCE = "a fixed number of sentences in random order"


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Measure in fp32, and in bf16 where the device computes in it."""
    rounds, batches = (1, 1) if quick else (5, 2 if device == "cpu" else 20)
    rows = []
    for precision in ("fp32", "bf16") if has_bf16(device) else ("fp32",):
        rows += _measure(corpus, device, precision, quick, rounds, batches)
    return rows


def _measure(corpus: Corpus, device: str, precision: str, quick: bool, rounds: int, batches: int) -> list[Row]:
    preset, budget = ("transformer_tiny", 512) if quick else ("transformer_small", 4096)
    setting = Setting(corpus.store, preset, None, budget, precision, device)
    trainer, dataset = Ours(setting).trainer, setting.dataset
    source, target = dataset.lengths(0, len(dataset))

    def work(plan: Plan) -> Callable[[int], int]:
        lengths = [target[examples].mean() for examples in plan.batches]
        order = np.argsort(lengths, kind="stable")

        def one_round(number: int) -> int:
            tokens = 0
            for i in spread(order, batches, number, rounds):
                batch = dataset.collate(plan.batches[i], plan.rows and plan.rows[i])
                trainer._update([batch])
                trainer._settle()
                tokens += batch.counts.target
            return tokens

        return one_round

    plans = same_size(source, target, trainer.config.data.batch_tokens)
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    random, *others = interleaved([work(plan) for plan in plans.values()], rounds, synchronize)
    names = list(plans)[1:]
    rows = [
        Paired(ours, random).row(f"{name}, {precision}", "target tokens/s")
        for name, ours in zip(names, others, strict=True)
    ]
    if precision == "fp32":
        figures = {"target tokens a batch": tokens_a_batch, "padding, %": lambda plan: 100 * padding_share(plan)}
        for figure, value in figures.items():
            reference = value(plans["fixed size"])
            rows += [Row(name, figure, value(plans[name]), reference) for name in names]
    return rows


def same_size(source: np.ndarray, target: np.ndarray, budget: int) -> dict[str, Plan]:
    """An epoch of every scheme in about as many batches as token_budget makes with this budget."""

    def ours(strategy: str, budget: int) -> Plan:
        config = PlanConfig(batching=strategy, batch_tokens=budget)
        return plan(source, target, config, np.random.default_rng(1))

    count = len(ours("token_budget", budget).batches)

    def sized(scheme: Callable[[int], Plan]) -> Plan:
        tried = budget
        for _ in range(4):
            tried = round(tried * len(scheme(tried).batches) / count)
        return scheme(tried)

    plans = {
        "fixed size": fixed_size(source, target, count, np.random.default_rng(1)),
        "fairseq": sized(lambda budget: sorted_then_cut(source, target, budget, np.random.default_rng(1))),
    }
    return plans | {name: sized(lambda budget, name=name: ours(name, budget)) for name in STRATEGIES}


def tokens_a_batch(plan: Plan) -> float:
    """Real target tokens of a batch, the mean."""
    return plan.target[0] / len(plan.batches)
