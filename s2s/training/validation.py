"""Validation: the criterion on held-out pairs, and metrics of decoded text, with the decode options of s2s-generate."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

import numpy as np
import torch

from s2s import scoring
from s2s.data.iterator import prefetch
from s2s.data.plan import PlanConfig, plan
from s2s.decoding.compose import generator_of, load
from s2s.tasks.tags import of_split, plain
from s2s.training.attention import Map, attention_maps
from s2s.training.distributed import Ranks


@dataclasses.dataclass
class Validation:
    """The results of a validation.

    Attributes:
        values: Metric -> value: loss and nll (in nats) per target token, perplexity (e^nll), accuracy (%), further
            metrics of the criterion, and metrics of decoded text, where there are several pairs of languages also those
            of each pair, such as bleu.de-en. If they are not 0, also the numbers of decoded sentences that were cut
            (cut_sources, see decode.max_source) or failed (failed_sentences, see decode.on_error=mark).
        signatures: Metric of decoded text -> its signature, which says how it was computed.
        samples: (source, reference, hypothesis) of a few sentences.
        maps: Attention maps of the samples, if requested.
    """

    values: dict[str, float]
    signatures: dict[str, str]
    samples: list[tuple[str, str, str]]
    maps: list[Map]


class Stopped(Exception):
    """A signal has interrupted a validation.

    Attributes:
        signal: Number of the signal.
    """

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class Validator:
    """Validates a model on one split.

    Args:
        task: The task.
        split: The split of the store, which has its raw text.
        criterion: The training criterion.
        metrics: `loss` and names of metrics of s2s.scoring.
        decode: Decode options for metrics of decoded text.
        data: Budget of a batch, and cost of a sentence.
        samples: Number of sentences to show.
        maps: Whether to make attention maps of them.
        ranks: The processes that share the work.

    Raises:
        UserError: a metric needs a package that is not installed, or more than hypotheses and references.
    """

    def __init__(self, task, split, criterion, metrics: list[str], decode, data: PlanConfig, samples: int,
                 maps: bool, ranks: Ranks):  # fmt: skip
        self.task, self.criterion, self.decode, self.ranks = task, criterion, decode, ranks
        self.dataset = task.dataset(split)
        self.metrics = [name for name in metrics if name != "loss"]
        for name in self.metrics:
            scoring.needs(name, scoring.metric(name), {})
        self.shown, self.maps = samples, maps
        # The files that decode options name are read once, before training starts, so that errors are raised early.
        device = torch.device("cuda", ranks.local) if ranks.device_type == "cuda" else torch.device("cpu")
        self.loaded = load(task, decode, device) if task.writes else {}
        lengths, data = self.dataset.lengths(0, len(self.dataset)), dataclasses.replace(data, batching="token_budget")
        # Corpora of several tasks have losses of their own, and so batches of their own.
        sizes = [corpus.last - corpus.first for corpus in self.dataset.corpora]
        names = [self.dataset.group(corpus) if task.mixes else "" for corpus in self.dataset.corpora]
        self.groups = list(dict.fromkeys(names))
        self._group = np.repeat([self.groups.index(name) for name in names], sizes)  # of each example
        self.batches = plan(*lengths, data, None, tags=self._group).batches
        self.references = self.dataset.references()

    @torch.inference_mode()
    def __call__(self, model, device: torch.device, autocast, signal: Callable[[], int | None]) -> Validation:
        """Validate a model; it is in training mode afterwards.

        Args:
            model: The model.
            device: Its device.
            autocast: A context manager for the forward pass.
            signal: Returns the number of a signal that this rank has received, or None.

        Raises:
            Stopped: a rank has received a signal; it is raised on all ranks.
        """
        model.eval()
        try:
            values = self._loss(model, device, autocast, signal)
            # Without metrics of decoded text only the samples are decoded, which are spread over the split.
            everything = range(len(self.dataset))
            shown = list(everything[:: max(1, len(everything) // self.shown)])[: self.shown] if self.shown else []
            decoded = list(everything) if self.metrics else shown
            written, counts = self._decode(model, decoded, signal)
            maps = []
            if shown and self.maps:
                pairs = zip(self._sources(shown), (written[i][0] for i in shown), strict=True)
                maps = attention_maps(self.task, model, self.decode, list(pairs))
        finally:
            model.train()
        text = {i: hypothesis for i, (_, hypothesis) in written.items()}
        hypotheses = [text[i] for i in everything] if self.metrics else []
        scores = self.ranks.first(lambda: {m: scoring.score(m, hypotheses, [self.references]) for m in self.metrics})
        values |= {name: score.value for name, score in scores.items()} | counts
        values |= self.ranks.first(lambda: self._by_direction(hypotheses)) if self.metrics else {}
        signatures = {name: score.signature for name, score in scores.items()}
        names = self.task.source_names(self.dataset.split, shown) if shown else []
        samples = [(name, self.references[i], text[i]) for name, i in zip(names, shown, strict=True)]
        return Validation(values, signatures, samples, maps)

    def _by_direction(self, hypotheses: list[str]) -> dict[str, float]:
        """Metrics of decoded text by pair of languages, such as bleu.de-en; empty if there is one pair."""
        pairs: dict[str, list[slice]] = {}
        for corpus in self.dataset.corpora:
            name = self.dataset.group(corpus)
            pairs.setdefault(name, []).append(slice(corpus.first, corpus.last))
        values = {}
        for name, places in pairs.items() if len(pairs) > 1 else ():
            texts, references = ([line for place in places for line in lines[place]]
                                 for lines in (hypotheses, self.references))  # fmt: skip
            if texts:
                values |= {f"{m}.{name}": scoring.score(m, texts, [references]).value for m in self.metrics}
        return values

    def _sources(self, examples) -> list:
        """The sources of examples, with their tags."""
        split, task = self.dataset.split, self.task
        return task.tagged(task.inputs(split, examples), of_split(split, examples) if task.tags else {})

    def _decode(
        self, model, examples, signal: Callable[[], int | None]
    ) -> tuple[dict[int, tuple[list[int], str]], dict[str, int]]:
        """Decode examples; returns example -> (ids, text) of its best hypothesis, and counts that are not 0."""
        (first, last), results = self.ranks.share(len(examples)), {}

        def tick() -> None:
            if number := signal():
                raise Stopped(number)

        with contextlib.suppress(Stopped):  # all ranks stop below
            if first < last:
                generator = generator_of(self.task, [model], self.decode, loaded=self.loaded, tick=tick)
                size = self.decode.buffer or self.task.buffer
                for start in range(first, last, size):
                    window = examples[start : min(start + size, last)]
                    sources = self._sources(window)
                    n_best = generator.generate(sources, first=start)
                    for i, source, (best, *_) in zip(window, sources, n_best, strict=True):
                        if self.decode.on_error == "stop":
                            best.check(f"validation: sentence {i + 1}")
                        text = self.task.text(best.ids, plain(source))
                        results[i] = (best.ids, text), best.source_truncated, best.error is not None
        self._stop(signal)
        everything = {i: result for own in self.ranks.gather(results) for i, result in own.items()}
        counts = {"cut_sources": sum(cut for _, cut, _ in everything.values()),
                  "failed_sentences": sum(failed for *_, failed in everything.values())}  # fmt: skip
        written = {i: written for i, (written, *_) in everything.items()}
        return written, {name: count for name, count in counts.items() if count}

    def _stop(self, signal: Callable[[], int | None]) -> None:
        """Raise Stopped if any rank has received a signal."""
        (number,) = self.ranks.largest([signal() or 0])
        if number:
            raise Stopped(number)

    def _loss(self, model, device: torch.device, autocast, signal: Callable[[], int | None]) -> dict[str, float]:
        names, counted = self.criterion.names(model), self.criterion.count_names
        sums = torch.zeros(len(self.groups), len(names) + len(counted), dtype=torch.float64, device=device)
        batches = self.batches[self.ranks.rank :: self.ranks.size]  # they are sorted by length
        for examples, batch in zip(batches, prefetch(self.dataset.collate, batches, workers=1), strict=False):
            if signal():
                break
            with autocast:
                result = self.criterion(model, batch.to(device))
            counts = self.criterion.counts(batch)
            values = [result.metrics[name].double() for name in names]
            values += [torch.tensor(counts[name], dtype=sums.dtype, device=device) for name in counted]
            sums[self._group[examples[0]]] += torch.stack(values)
        self._stop(signal)
        rows, divisors = self.ranks.total(sums.flatten()).view_as(sums), self.criterion.divisors(model)

        def values_of(row: torch.Tensor) -> dict[str, float]:
            totals = dict(zip([*names, *counted], row.tolist(), strict=True))
            return {"loss": self.criterion.valid_loss(totals), **metrics_of(totals, divisors)}

        own = zip(self.groups, map(values_of, rows), strict=True) if len(self.groups) > 1 else ()
        return values_of(rows.sum(0)) | {f"{name}.{group}": value for group, values in own
                                         for name, value in values.items() if name in ("loss", "nll")}  # fmt: skip


def metrics_of(sums: dict[str, float], divisors: dict[str, str | None]) -> dict[str, float]:
    """The metrics of a criterion, divided by their divisors; with `nll` also `perplexity` = e^nll.

    Args:
        sums: Name -> sum of each metric and count.
        divisors: As `Criterion.divisors`. A metric without a divisor is left out if it is 0, and one whose divisor is 0
            is left out, too.
    """
    values: dict[str, float] = {}
    for name, divisor in divisors.items():
        value, count = sums.get(name, 0.0), 1 if divisor is None else sums.get(divisor, 0.0)
        if divisor is None:
            values |= {name: round(value)} if value else {}
        elif not count:
            continue
        elif name == "correct":
            values["accuracy"] = 100 * value / count
        else:
            values[name] = value / count
        if name == "nll":
            values["perplexity"] = math.exp(min(values[name], 700.0))
    return values


def higher_is_better(metric: str) -> bool:
    """Whether higher values of a metric are better."""
    return metric != "loss" and scoring.higher_is_better(metric)
