"""Decoding with Transformers, small and base, beside CTranslate2, Hugging Face and fairseq's scheme.

Each case is a model, so many sentences side by side, and a beam: base (6+6 layers, d512, 32,000 symbols) and small
(3+3, d256, 8,000) with random weights, where every hypothesis of a batch has the same given length (source lengths are
log-normal, those of hypotheses vary about them); and a trained model with the lengths that it chooses itself, where all
sentences of the validation text are handed over at once and freed slots are refilled (quick: trained for seconds),
without and with a shortlist.

All contenders decode the same sentences in the same order with the same weights, in turn; the slow ones in the first
round only, and Hugging Face only two batches.

    run.py decoding --checkpoint=runs/m30k --cases='base-64-*,trained-*' --contenders='s2s-*,ctranslate2-*' --rounds=5

Without a checkpoint there is no trained model. A case is MODEL-BATCH-BEAM. There are 3 rounds by default, 2 of a
thousand sentences. Ratios are those of each contender of s2s to each other one.

The share of matrix products is the time of the same linear maps alone, on the same numbers of rows, over that of the
whole; attention's are not among them. Alone, each map is a call from Python: with few rows that takes longer than the
one call of a native step, and the share is over 100%.
"""

import statistics
import time
from collections.abc import Callable
from fnmatch import fnmatchcase

import numpy as np
import torch
from contenders import Decode, Ids, Job, Ours, Setting, all_contenders
from corpus import Corpus
from measure import Paired, Row
from quantization import shortlist_of, trained_briefly
from torch import nn
from training import spread

from s2s.config.compose import compose
from s2s.data.store import Store
from s2s.models.transformer import Transformer
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import SPECIALS, Vocabulary
from s2s.text.words import WordTokenizer
from s2s.training.checkpoint import load_model
from s2s_cli.train import TrainCommand

REFERENCE = "named in each line, the same weights and sentences"
MODELS = {"base": ("transformer_base", 32000), "small": ("transformer_small", 8000)}
# Sentences of a round, by how many are decoded side by side.
SENTENCES = {
    "base": {1: 6, 8: 16, 64: 64, 128: 256},
    "small": {1: 16, 8: 48, 64: 128, 128: 512},
    "trained": {1: 32, 8: 128, 64: 1014, 128: 1014},
}
BATCHES = {"cpu": (1, 8, 64), "cuda": (1, 8, 64, 128)}
QUICK = {"small": {8: 16}, "trained": {1: 1}}
BEAMS = (1, 5)
ONCE = ("s2s eager", "fairseq's scheme", "huggingface")  # slow, or of little interest
MEDIAN, DEVIATION, RATIO_DEVIATION = 20, 0.5, 0.15  # source lengths; log of the lengths' ratio to them


def run(
    corpus: Corpus,
    device: str,
    quick: bool,
    checkpoint: str | None = None,
    cases: str = "*",
    contenders: str = "*",
    rounds: str | None = None,
) -> list[Row]:
    """Measure each case that is asked for."""
    if quick and checkpoint is None:
        checkpoint = trained_briefly(corpus, device, quick)
    rows = []
    for name, batches in (QUICK if quick else SENTENCES).items():
        chosen = [
            (batch, beam_size, f"{name}-{batch}-{beam_size}")
            for batch in batches
            for beam_size in (BEAMS[1:] if quick else BEAMS)
            if batch in BATCHES[device] and _matches(f"{name}-{batch}-{beam_size}", cases)
        ]
        if not chosen or (name == "trained" and checkpoint is None):
            continue
        model, task, jobs_of = _trained(corpus, checkpoint, device) if name == "trained" else _random(name, device)
        shortlist = shortlist_of(corpus, task) if name == "trained" else None
        for batch, beam_size, case in chosen:
            print(f"{case} ...", flush=True)
            jobs = jobs_of(batches[batch], batch)
            setting = Setting(model, task, device, beam_size, batch, shortlist)
            several = 1 if quick else 3 if batches[batch] < 1000 else 2
            rows += _measure(case, setting, jobs, contenders, int(rounds or several))
    return rows


def _matches(name: str, patterns: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns.split(","))


def _random(name: str, device: str) -> tuple[Transformer, TranslationTask, Callable]:
    """A model of random weights, its task, and what makes jobs of so many sentences for a batch size."""
    preset, symbols = MODELS[name]
    tokenizer = WordTokenizer(
        WordTokenizer.Config(), Vocabulary([*SPECIALS, *map(str, range(symbols - len(SPECIALS)))])
    )
    task = TranslationTask(tokenizer, tokenizer)
    torch.manual_seed(1)
    model = task.model(compose(TrainCommand, [("model", preset)]).model).to(device).eval()
    rng = np.random.default_rng(1)
    sources = np.exp(rng.normal(np.log(MEDIAN), DEVIATION, 1000)).round().clip(3, 100).astype(int)
    targets = (sources * np.exp(rng.normal(0, RATIO_DEVIATION, len(sources)))).round().clip(1)
    pairs = sorted(zip(sources.tolist(), targets.tolist(), strict=True), reverse=True)

    def jobs(count: int, batch: int) -> list[Job]:
        chosen = spread(pairs, count, 0, 1)
        found = []
        for first in range(0, count, batch):
            part = chosen[first : first + batch]
            ids = [rng.integers(len(SPECIALS), symbols, source).tolist() for source, _ in part]
            found.append(Job(ids, round(statistics.mean(target for _, target in part)) + 1))
        return found

    return model, task, jobs


def _trained(corpus: Corpus, checkpoint: str, device: str) -> tuple[Transformer, TranslationTask, Callable]:
    """As `_random`, of a checkpoint: one job."""
    model, task, _ = load_model(checkpoint, device)
    sources = task.encode(Store(corpus.store).split("valid").source_text())
    sources = sorted(filter(len, sources), key=len, reverse=True)
    return model, task, lambda count, batch: [Job(spread(sources, min(count, len(sources)), 0, 1))]


def _measure(case: str, setting: Setting, jobs: list[Job], patterns: str, rounds: int) -> list[Row]:
    """All contenders in turn, after a few unmeasured sentences of each."""
    works: dict[str, tuple[Decode, list[Job], int]] = {}
    for name, make in all_contenders(setting).items():
        if _matches(name, patterns):
            its_jobs = _few(jobs, setting.batch) if name.startswith("huggingface") else jobs
            works[name] = make(setting), its_jobs, 1 if name.startswith(ONCE) else rounds
    for decode, _, _ in works.values():
        decode([Job(jobs[-1].sources[-8:], jobs[-1].length)])
    seconds: dict[str, list[float]] = {name: [] for name in works}
    speeds: dict[str, list[float]] = {name: [] for name in works}
    found: dict[str, list[Ids]] = {}
    for number in range(rounds):
        for name, (decode, its_jobs, its_rounds) in works.items():
            if number < its_rounds:
                seconds[name].append(_seconds(decode, its_jobs, setting.device, found, name))
                speeds[name].append(sum(len(job.sources) for job in its_jobs) / seconds[name][-1])
    return _rows(case, works, jobs, seconds, speeds, found, setting)


def _few(jobs: list[Job], batch: int) -> list[Job]:
    """About two batches of ordinary lengths."""
    if len(jobs) > 1:
        return jobs[len(jobs) // 2 - 1 : len(jobs) // 2 + 1]
    sources = jobs[0].sources
    first = max(0, len(sources) // 2 - batch)
    return [Job(sources[first : first + 2 * batch], jobs[0].length)]


def _seconds(decode: Decode, jobs: list[Job], device: str, found: dict, name: str) -> float:
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    began = time.perf_counter()
    found[name] = decode(jobs)
    synchronize()
    return time.perf_counter() - began


def _rows(case: str, works: dict, jobs: list[Job], seconds: dict, speeds: dict, found: dict, setting: Setting) -> list:
    mine = [name for name in works if name.startswith("s2s")]
    rows = []
    for name in mine:
        for peer in works:
            same_type = peer.rpartition("-")[2] == name.rpartition("-")[2]
            if peer.startswith(("huggingface", "fairseq")) or (
                same_type and (peer.startswith("ctranslate2") or (peer.startswith("s2s-") and "shortlist" in name))
            ):
                rounds = min(len(speeds[name]), len(speeds[peer]))
                pairs = Paired(speeds[name][:rounds], speeds[peer][:rounds])
                rows.append(pairs.row(f"{case}, {name}", f"sentences/s, {peer}"))
        if name.startswith("s2s-"):
            share = _products(works[name][0], jobs, setting) / statistics.median(seconds[name])
            rows.append(Row(f"{case}, {name}", "time in linear maps, %", 100 * share))
    base = found[next(iter(works))]
    for name in works:
        # With given lengths, s2s writes EOS at the end and the peers another token; the reference does as s2s.
        if len(found[name]) == len(base) and found[name] is not base and (jobs[0].length is None or "scheme" in name):
            same = 100 * sum(a == b for a, b in zip(found[name], base, strict=True)) / len(base)
            rows.append(Row(f"{case}, {name}", f"the hypotheses of {next(iter(works))}, %", same))
    tokens = statistics.mean(len(ids) + 1 for ids in base)
    rows.append(Row(case, "tokens of a hypothesis, EOS among them", tokens))
    return rows


def _products(ours: Ours, jobs: list[Job], setting: Setting) -> float:
    """Seconds of the linear maps of all jobs, alone: which are called on how many rows is seen by decoding without
    kernels that call them themselves."""
    seen = Ours(setting, dtype=ours.config.dtype, backend="eager")
    calls: list[tuple[str, torch.Size]] = []
    for name, part in seen.generator.scorer.model.named_modules():
        if _is_linear(part):
            part.register_forward_pre_hook(lambda part, x, name=name: calls.append((name, x[0].shape)))
    seen(jobs)
    model = ours.generator.scorer.model
    kind = next(model.parameters()).dtype
    inputs = {shape: torch.randn(shape, device=setting.device).to(kind) for _, shape in calls}
    work = [(model.get_submodule(name), inputs[shape]) for name, shape in calls]

    def replay(jobs: list[Job]) -> list[Ids]:
        with torch.inference_mode():
            for part, x in work:
                part(x)
        return []

    return _seconds(replay, jobs, setting.device, {}, "")


def _is_linear(part: nn.Module) -> bool:
    return type(part).__name__.endswith("Linear")
