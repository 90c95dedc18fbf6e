"""The training step of a small Transformer (3+3 layers, d256) at 4096 tokens a batch, beside a plain one.

Ours is the trainer's own update on the batches of its own plan. The reference does the same in fairseq's manner:
batches sorted by source and then target length whose sizes are multiples of 8, a plain Transformer with PyTorch's
dropout, log-softmax over the whole [B, T, V] in fp32, Adam that is not fused. Both collate in the measured time. Each
round takes batches evenly from the shortest to the longest of each side's plan. Only real target tokens count.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from corpus import Corpus
from measure import Row, paired
from plain_batches import sorted_then_cut
from plain_transformer import PlainTransformer
from torch.profiler import ProfilerActivity, profile

from s2s.config.compose import compose
from s2s.data.batch import Batch
from s2s.data.iterator import BatchIterator
from s2s.data.store import Store
from s2s.tasks.translation import PairDataset, TranslationTask
from s2s.text.vocabulary import PAD
from s2s.training.trainer import Interval, Trainer
from s2s_cli.train import TrainCommand

REFERENCE = "a plain Transformer and batches in fairseq's manner, the same weights"
PRODUCTS = {f"aten::{name}" for name in ("mm", "mm_", "addmm", "addmm_", "bmm", "baddbmm")}


def run(corpus: Corpus, device: str, quick: bool) -> list[Row]:
    """Measure in fp32, and in bf16 where the device computes in it."""
    rounds, batches = (1, 2) if quick else (5, 3 if device == "cpu" else 20)
    rows = []
    for precision in ("fp32", "bf16") if has_bf16(device) else ("fp32",):
        rows += _measure(corpus, device, precision, quick, rounds, batches)
    return rows


def has_bf16(device: str) -> bool:
    """Whether the device multiplies in bf16 by itself."""
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and "bf16" in flags.read_text(encoding="utf-8")


def build(corpus: Corpus, device: str, precision: str, quick: bool) -> tuple[Trainer, PairDataset]:
    """The trainer of the small model on the training split, ready for updates."""
    config = compose(
        TrainCommand,
        [
            ("model", "transformer_tiny" if quick else "transformer_small"),
            ("data.batch_tokens", "512" if quick else "4096"),
            ("train.precision", precision),
            ("run", "nowhere"),  # nothing is saved
        ],
    )
    store = Store(corpus.store)
    task = TranslationTask.setup(store)
    dataset = task.dataset(store.split("train"))
    torch.manual_seed(config.seed)
    model = task.model(config.model).to(device).train()
    criterion = task.criterion(config.criterion)
    trainer = Trainer(config, task, model, criterion, BatchIterator(dataset, config.data, config.seed), None, "")
    trainer.interval = Interval()
    return trainer, dataset


def _measure(corpus: Corpus, device: str, precision: str, quick: bool, rounds: int, batches: int) -> list[Row]:
    trainer, dataset = build(corpus, device, precision, quick)
    plain = PlainTransformer(trainer.model).to(device)
    check(trainer.model, plain, trainer.criterion, dataset.collate(np.arange(8)).to(device))
    trainer.model.train()
    update = plain_update(plain.train(), trainer.config, device, precision)
    window = trainer.iterator.current
    budget, rng = trainer.config.data.batch_tokens, np.random.default_rng(trainer.config.seed)
    lengths = dataset.lengths(0, len(dataset))
    plain_plan = sorted_then_cut(*lengths, budget, rng)

    def work(update: Callable[[Batch], None], plan: list) -> Callable[[int], int]:
        plan = sorted(plan, key=lambda examples: lengths[1][examples].mean())

        def one_round(number: int) -> int:
            tokens = 0
            for examples in spread(plan, batches, number, rounds):
                batch = dataset.collate(examples)
                update(batch)
                tokens += batch.counts.target
            return tokens

        return one_round

    planned = [window.examples[places] for places in window.plan.batches]
    ours, reference = work(lambda batch: trainer._update([batch]), planned), work(update, plain_plan.batches)
    speeds = paired(ours, reference, rounds, torch.cuda.synchronize if device == "cuda" else lambda: None)
    rows = [speeds.row(precision, "target tokens/s")]
    shares = [100 * product_share(lambda one=one: one(0), device) for one in (ours, reference)]
    rows.append(Row(precision, "time in matrix products, attention's apart, %", *shares))
    if precision == "fp32":
        for side in ("source", "target"):
            both = [100 * getattr(plan, f"{side}_padding") for plan in (window.plan, plain_plan)]
            rows.append(Row("batches of an epoch", f"{side} padding, %", *both))
    return rows


def check(model, plain: PlainTransformer, criterion, batch: Batch) -> None:
    """Both compute one loss. Raises RuntimeError."""
    with torch.no_grad():
        ours = float(criterion(model.eval(), batch).sum)
        reference = float(plain_loss(plain.eval(), batch, criterion.config.label_smoothing))
    if abs(ours - reference) > 1e-4 * abs(reference):
        raise RuntimeError(f"the losses differ: {ours} of s2s, {reference} of the reference")


def plain_loss(model: PlainTransformer, batch: Batch, smoothing: float) -> torch.Tensor:
    """Label-smoothed cross-entropy summed over real tokens, from the log-probabilities of all positions in fp32."""
    log_probabilities = model(batch.sources[0].values, batch.decoder_input).float().log_softmax(dim=-1)
    log_probabilities = log_probabilities.view(-1, log_probabilities.size(-1))
    target = batch.target.view(-1, 1)
    padding = target.eq(PAD)
    nll = -log_probabilities.gather(1, target)
    smooth = -log_probabilities.sum(dim=1, keepdim=True)
    nll, smooth = nll.masked_fill(padding, 0.0).sum(), smooth.masked_fill(padding, 0.0).sum()
    return (1 - smoothing) * nll + smoothing / log_probabilities.size(1) * smooth


def plain_update(model: PlainTransformer, config, device: str, precision: str) -> Callable[[Batch], None]:
    """A training step of the reference."""
    options = config.optim
    optimizer = torch.optim.Adam(model.parameters(), options.lr / 100, (options.beta1, options.beta2), options.eps)
    smoothing, limit = config.criterion.label_smoothing, config.train.clip_norm

    def update(batch: Batch) -> None:
        batch = batch.to(device)
        optimizer.zero_grad()
        bf16 = torch.autocast(device, torch.bfloat16) if precision == "bf16" else contextlib.nullcontext()
        with bf16:
            loss = plain_loss(model, batch, smoothing) / batch.counts.target
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        if not torch.isfinite(norm + loss.detach()):  # the host waits for the device, as ours does
            raise RuntimeError("the reference's gradient is not finite")
        optimizer.step()

    return update


def spread(items: Sequence, count: int, number: int, rounds: int) -> list:
    """`count` of the items at even distances; every round takes others."""
    places = (np.arange(count) + (number + 0.5) / rounds) * len(items) / count
    return [items[int(place)] for place in places]


def product_share(work: Callable[[], object], device: str) -> float:
    """Share of the device's busy time, 0 to 1, that the matrix products of linear layers (and of a plain attention)
    take; those inside PyTorch's fused attention are not seen."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    with profile(activities=activities) as profiler:
        work()
    events = [event for event in profiler.key_averages() if event.device_type == torch.autograd.DeviceType.CPU]

    def busy(event) -> float:
        return event.self_device_time_total if device == "cuda" else event.self_cpu_time_total

    return sum(busy(event) for event in events if event.key in PRODUCTS) / sum(map(busy, events))
