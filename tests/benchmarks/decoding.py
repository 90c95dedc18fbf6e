"""Decoding with Transformers, tiny to base, beside CTranslate2, Hugging Face and fairseq's scheme.

Each case is a model, so many sentences side by side, a beam, and a number of threads: base (6+6 layers, d512, 32,000
symbols), small (3+3, d256, 8,000) and tiny (2+2, d128, 8,000) with random weights, where every hypothesis of a batch
has the same given length (source lengths are log-normal, those of hypotheses vary about them); and a trained model
with the lengths that it chooses itself, where the lines of the validation text, or of --text, are handed over at
once, as ids (trained-64: freed slots are refilled), without and with a shortlist, or as text, each tool with the
tokenization and the batches that suit it best (trained-text).

All contenders decode the same sentences in the same order with the same weights, in turn, each in a process of its
own; s2s without kernels in the first round only, and Hugging Face only two batches. CTranslate2 has the division of its
threads and the batches that are fastest in the case (contenders.py).

    run.py decoding --checkpoint=runs/m30k --cases='base-64-*,trained-*' --contenders='s2s-*,ctranslate2-*' --rounds=5

Without a checkpoint there is no trained model. A case is MODEL-BATCH-BEAM-THREADS. There are 5 rounds by default.
Ratios are those of each contender of s2s to each other one: in sentences a second, and in sentences a second of the
CPU. A case whose ratios differ too much between the rounds is measured again, once; if they still do, the table calls
it noise.

The share of the floor is the time that the same matrix products take alone, each at the best rate of any kernel here,
over that of the whole. The products of attention are not among them.
"""

import itertools
import statistics
import tempfile
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from contenders import Apart, Contender, Job, Sample, Setting, all_contenders
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
MODELS = {"base": ("transformer_base", 32000), "small": ("transformer_small", 8000), "tiny": ("transformer_tiny", 8000)}
# Sentences of a round, by how many are decoded side by side; text: handed over as lines.
SENTENCES: dict[str, dict[int | str, int]] = {
    "base": {1: 6, 8: 16, 64: 64, 128: 256},
    "small": {1: 16, 8: 48, 64: 128, 128: 512},
    "tiny": {1: 32, 8: 128, 64: 512, 128: 1024},
    "trained": {1: 32, 8: 128, 64: 1014, 128: 1014, "text": 1014},
}
BATCHES = {"cpu": (1, 8, 64, "text"), "cuda": (1, 8, 64, 128, "text")}
QUICK: dict[str, dict[int | str, int]] = {"small": {8: 16}, "trained": {1: 1, "text": 4}}
BEAMS = (1, 5)
ONCE = ("s2s eager",)  # slow, and of little interest
TEXT = ("s2s-", "s2s eager", "ctranslate2")  # contenders that are given lines
MEDIAN, DEVIATION, RATIO_DEVIATION = 20, 0.5, 0.15  # source lengths; log of the lengths' ratio to them


def run(
    corpus: Corpus,
    device: str,
    quick: bool,
    checkpoint: str | None = None,
    text: str | None = None,
    cases: str = "*",
    contenders: str = "*",
    rounds: str | None = None,
) -> list[Row]:
    """Measure each case that is asked for."""
    if quick and checkpoint is None:
        checkpoint = trained_briefly(corpus, device, quick)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, batches in (QUICK if quick else SENTENCES).items():
            several = (BEAMS[1:], (1,)) if quick else (BEAMS, _threads(device))
            chosen = [
                (batch, beam_size, threads, case)
                for batch, beam_size, threads in itertools.product(batches, *several)
                if batch in BATCHES[device] and _matches(case := f"{name}-{batch}-{beam_size}-{threads}", cases)
            ]
            if not chosen or (name == "trained" and checkpoint is None):
                continue
            model, task, jobs_of = (
                _trained(corpus, checkpoint, device, text) if name == "trained" else _random(name, device)
            )
            # Symbols of another text have no translations here.
            shortlist = shortlist_of(corpus, task) if name == "trained" and text is None else None
            setting = Setting(model, task, device, 1, 1, shortlist)
            file = Path(folder) / name
            torch.save(setting, file)
            for batch, beam_size, threads, case in chosen:
                print(f"{case} ...", flush=True)
                jobs = jobs_of(batches[batch], batch)
                works, labels = {}, {}
                for one in all_contenders(setting):
                    if _matches(one, contenders) and (batch != "text" or one.startswith(TEXT)):
                        works[one] = Contender(one) if quick else Apart(one, threads)
                        side_by_side = None if batch == "text" else batch
                        labels[one] = works[one].prepare(file, beam_size, side_by_side, threads, _part(jobs))
                rows += _measure(case, works, labels, jobs, batch, int(rounds or (1 if quick else 5)), threads)
                for one in works.values():
                    one.close()
    return rows


def _threads(device: str) -> list[int]:
    """The numbers of threads that are measured."""
    return [1] if device == "cuda" else sorted({1, torch.get_num_threads()})


def _part(jobs: list[Job]) -> list[Job]:
    """By which contenders choose among their options: a job of each kind, or a hundred lines."""
    if len(jobs) > 1:
        return jobs[:: max(1, len(jobs) // 4)]
    (job,) = jobs
    lines = None if job.lines is None else job.lines[:256]
    return [Job(job.sources[:256], job.length, lines)]


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


def _trained(
    corpus: Corpus, checkpoint: str, device: str, text: str | None
) -> tuple[Transformer, TranslationTask, Callable]:
    """As `_random`, of a checkpoint: one job, or a job for each sentence where it comes alone."""
    model, task, _ = load_model(checkpoint, device)
    if text is None:
        lines = Store(corpus.store).split("valid").lines("source.text")
    else:
        lines = Path(text).read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.strip()]
    sources = sorted(filter(len, task.encode(lines)), key=len, reverse=True)

    def jobs(count: int, batch: int | str) -> list[Job]:
        if batch == "text":
            return [Job([], lines=lines[:count])]
        chosen = spread(sources, min(count, len(sources)), 0, 1)
        return [Job([source]) for source in chosen] if batch == 1 else [Job(chosen)]

    return model, task, jobs


def _measure(case: str, works: dict[str, Contender | Apart], labels: dict[str, str], jobs: list[Job], batch: int | str,
             rounds: int, threads: int) -> list[Row]:  # fmt: skip
    """All contenders in turn, after a part of the sentences unmeasured; again if that was noise."""
    for contender in works.values():
        contender.decode(_part(jobs)[-1:])
    for final in (rounds == 1, True):
        samples: dict[str, list[Sample]] = {name: [] for name in works}
        found: dict[str, list] = {}
        for number in range(rounds):
            for name, contender in works.items():
                if number == 0 or not name.startswith(ONCE):
                    its_jobs = _few(jobs, batch) if name.startswith("huggingface") else jobs
                    sample, found[name] = contender.decode(its_jobs)
                    samples[name].append(sample)
        sizes = {name: sum(map(len, _few(jobs, batch) if name.startswith("huggingface") else jobs)) for name in works}
        rows = _ratios(case, labels, sizes, samples, threads)
        if final or not any(row.noise for row in rows if f"/{'CPU s' if threads == 1 else 's'}," in row.figure):
            break
    return rows + _facts(case, works, jobs, samples, found)


def _few(jobs: list[Job], batch: int) -> list[Job]:
    """About two batches of ordinary lengths."""
    if len(jobs) > 1:
        return jobs[len(jobs) // 2 - 1 : len(jobs) // 2 + 1]
    sources = jobs[0].sources
    first = max(0, len(sources) // 2 - batch)
    return [Job(sources[first : first + 2 * batch], jobs[0].length)]


def _ratios(case: str, labels: dict[str, str], sizes: dict[str, int], samples: dict[str, list[Sample]],
            threads: int) -> list[Row]:  # fmt: skip
    """Each contender of s2s over each other one of its type, and over those that have one type only."""
    rows = []
    for name in (name for name in samples if name.startswith("s2s")):
        for peer in samples:
            same_type = peer.rpartition("-")[2] == name.rpartition("-")[2]
            if peer.startswith(("huggingface", "fairseq")) or (
                same_type and (peer.startswith("ctranslate2") or (peer.startswith("s2s-") and "shortlist" in name))
            ):
                label = f"{peer} ({labels[peer]})" if labels[peer] else peer
                for figure, of in (("s", "wall"), ("CPU s", "cpu")):
                    mine, theirs = (
                        [sizes[one] / getattr(sample, of) for sample in samples[one]] for one in (name, peer)
                    )
                    count = min(len(mine), len(theirs))
                    rows.append(
                        Paired(mine[:count], theirs[:count]).row(f"{case}, {name}", f"sentences/{figure}, {label}")
                    )
    return rows


def _facts(
    case: str, works: dict, jobs: list[Job], samples: dict[str, list[Sample]], found: dict[str, list]
) -> list[Row]:
    """The share of the floor, pages, and whether all find the same."""
    rows = []
    for name, works_of in works.items():
        pages = statistics.median(sample.pages for sample in samples[name])
        rows.append(Row(f"{case}, {name}", "pages touched for the first time", pages))
        if name.startswith("s2s-") and jobs[0].lines is None:
            share = works_of.floor(jobs) / statistics.median(sample.cpu for sample in samples[name])
            rows.append(Row(f"{case}, {name}", "share of the floor, % of CPU time", 100 * share))
    base = found[next(iter(works))]
    for name in works:
        # With given lengths, s2s writes EOS at the end and the peers another token; the reference does as s2s.
        if len(found[name]) == len(base) and found[name] is not base and (jobs[0].length is None or "scheme" in name):
            same = 100 * sum(a == b for a, b in zip(found[name], base, strict=True)) / len(base)
            rows.append(Row(f"{case}, {name}", f"the hypotheses of {next(iter(works))}, %", same))
    if jobs[0].lines is None:
        tokens = statistics.mean(len(ids) + 1 for ids in base)
        rows.append(Row(case, "tokens of a hypothesis, EOS among them", tokens))
    return rows
