"""Decoding with Transformers, small and base, beside CTranslate2, Hugging Face and fairseq's scheme.

Each case is a model, so many sentences side by side, and a beam: base (6+6 layers, d512, 32,000 symbols) and small
(3+3, d256, 8,000) with random weights, where every hypothesis of a batch has the same given length (source lengths are
log-normal, those of hypotheses vary about them); and a trained model with the lengths that it chooses itself, where all
sentences of the validation text are handed over at once and freed slots are refilled (quick: trained for seconds),
without and with a shortlist.

All contenders decode the same sentences in the same order with the same weights, in turn, each in a process of its own;
the slow ones in the first round only, and Hugging Face only two batches.

    run.py decoding --checkpoint=runs/m30k --cases='base-64-*,trained-*' --contenders='s2s-*,ctranslate2-*' --rounds=5

Without a checkpoint there is no trained model. A case is MODEL-BATCH-BEAM. There are 3 rounds by default, 2 of a
thousand sentences. Ratios are those of each contender of s2s to each other one.

The share of matrix products is the time of the same linear maps alone, on the same numbers of rows, over that of the
whole; attention's are not among them. Alone, each map is a call from Python: with few rows that takes longer than the
one call of a native step, and the share is over 100%.
"""

import statistics
import tempfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from contenders import Apart, Contender, Ids, Job, Setting, all_contenders
from corpus import Corpus
from measure import Paired, Row
from quantization import shortlist_of, trained_briefly
from trainers import spread

from s2s.checkpoint.loading import load_model
from s2s.config.compose import compose
from s2s.data.store import Store
from s2s.models.transformer import Transformer
from s2s.tasks.translation import TranslationTask
from s2s.text.vocabulary import SPECIALS, Vocabulary
from s2s.text.words import WordTokenizer
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
    rows: list[Row] = []
    running: dict[str, Contender | Apart] = {}
    with tempfile.TemporaryDirectory() as folder:
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
            setting = Setting(model, task, device, 1, 1, shortlist_of(corpus, task) if name == "trained" else None)
            file = Path(folder) / name
            torch.save(setting, file)
            names = [one for one in all_contenders(setting) if _matches(one, contenders)]
            for one in names:
                running[one] = running.get(one) or (Contender if quick else Apart)(one)
            for batch, beam_size, case in chosen:
                print(f"{case} ...", flush=True)
                for one in names:
                    if one.startswith("ctranslate2") and not quick:  # a process's second translator is slow
                        running[one].close()
                        running[one] = Apart(one)
                    running[one].prepare(file, beam_size, batch)
                several = 1 if quick else 3 if batches[batch] < 1000 else 2
                works = {one: running[one] for one in names}
                rows += _measure(case, works, jobs_of(batches[batch], batch), batch, int(rounds or several))
    for one in running.values():
        one.close()
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
    sources = task.encode(Store(corpus.store).split("valid").lines("source.text"))
    sources = sorted(filter(len, sources), key=len, reverse=True)
    return model, task, lambda count, batch: [Job(spread(sources, min(count, len(sources)), 0, 1))]


def _measure(case: str, works: dict[str, Contender | Apart], jobs: list[Job], batch: int, rounds: int) -> list[Row]:
    """All contenders in turn, after a few unmeasured sentences of each."""
    for contender in works.values():
        contender.decode([Job(jobs[-1].sources[-8:], jobs[-1].length)])
    seconds: dict[str, list[float]] = {name: [] for name in works}
    speeds: dict[str, list[float]] = {name: [] for name in works}
    found: dict[str, list[Ids]] = {}
    for number in range(rounds):
        for name, contender in works.items():
            if number < (1 if name.startswith(ONCE) else rounds):
                its_jobs = _few(jobs, batch) if name.startswith("huggingface") else jobs
                took, found[name] = contender.decode(its_jobs)
                seconds[name].append(took)
                speeds[name].append(sum(len(job.sources) for job in its_jobs) / took)
    return _rows(case, works, jobs, seconds, speeds, found)


def _few(jobs: list[Job], batch: int) -> list[Job]:
    """About two batches of ordinary lengths."""
    if len(jobs) > 1:
        return jobs[len(jobs) // 2 - 1 : len(jobs) // 2 + 1]
    sources = jobs[0].sources
    first = max(0, len(sources) // 2 - batch)
    return [Job(sources[first : first + 2 * batch], jobs[0].length)]


def _rows(case: str, works: dict, jobs: list[Job], seconds: dict, speeds: dict, found: dict) -> list[Row]:
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
            share = works[name].products(jobs) / statistics.median(seconds[name])
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
