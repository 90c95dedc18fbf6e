"""Validation: the criterion's value on held-out pairs, and metrics of decoded text with generate's own settings."""

import contextlib
import dataclasses
import math
from collections.abc import Callable

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
    """What a validation found.

    Attributes:
        values: Metric -> value; a target token, loss and, in nats, nll; perplexity (base e), accuracy (%), what else
            the criterion has, and the decoded metrics asked for. Where there are any, cut_sources (decode.max_source)
            and failed_sentences (decode.on_error=mark) of those that are decoded.
        signatures: Decoded metric -> how it was computed.
        samples: (source, reference, hypothesis) of a few sentences.
        maps: What the model looked at while it wrote them, where that was asked for.
    """

    values: dict[str, float]
    signatures: dict[str, str]
    samples: list[tuple[str, str, str]]
    maps: list[Map]


class Stopped(Exception):
    """A signal has ended a validation.

    Attributes:
        signal: Its number.
    """

    def __init__(self, signal: int):
        super().__init__(signal)
        self.signal = signal


class Validator:
    """Validates a model on one split.

    Args:
        task: The task.
        split: The split of the store; it keeps its raw text.
        criterion: The training criterion.
        metrics: `loss` and names that s2s.scoring knows.
        decode: Decode config for the decoded metrics.
        data: The budget of a batch, and what a sentence costs.
        samples: How many sentences to show.
        maps: Whether to find what the model looks at in them.
        ranks: The processes that share the work.
    """

    def __init__(self, task, split, criterion, metrics: list[str], decode, data: PlanConfig, samples: int,
                 maps: bool, ranks: Ranks):  # fmt: skip
        self.task, self.criterion, self.decode, self.ranks = task, criterion, decode, ranks
        self.dataset = task.dataset(split)
        self.metrics = [name for name in metrics if name != "loss"]
        self.shown, self.maps = samples, maps
        # What its options name is read once, and now: a file that is not as it should be ends no run later on.
        device = torch.device("cuda", ranks.local) if ranks.device_type == "cuda" else torch.device("cpu")
        self.loaded = load(task, decode, device) if task.writes else {}
        lengths = self.dataset.lengths(0, len(self.dataset))
        self.batches = plan(*lengths, dataclasses.replace(data, batching="token_budget"), None).batches
        self.references = split.lines("target.text")

    @torch.inference_mode()
    def __call__(self, model, device: torch.device, autocast, signal: Callable[[], int | None]) -> Validation:
        """Validate; the model comes back in training mode.

        Args:
            model: The model.
            device: Of the model.
            autocast: A context manager for the forward pass.
            signal: Gives the number of a signal once one has come, to any of the ranks.

        Raises:
            Stopped: by a signal, on all ranks.
        """
        model.eval()
        try:
            values = self._loss(model, device, autocast, signal)
            # Without a decoded metric only the shown sentences are decoded, spread over the split.
            everything = range(len(self.dataset))
            shown = list(everything[:: max(1, len(everything) // self.shown)])[: self.shown] if self.shown else []
            wanted = list(everything) if self.metrics else shown
            written, counts = self._decode(model, wanted, signal)
            maps = []
            if shown and self.maps:
                pairs = zip(self._sources(shown), (written[i][0] for i in shown), strict=True)
                maps = attention_maps(self.task, model, self.decode, list(pairs))
        finally:
            model.train()
        text = {i: said for i, (_, said) in written.items()}
        hypotheses = [text[i] for i in everything] if self.metrics else []
        scores = self.ranks.first(lambda: {m: scoring.score(m, hypotheses, [self.references]) for m in self.metrics})
        values |= {name: score.value for name, score in scores.items()} | counts
        signatures = {name: score.signature for name, score in scores.items()}
        names = self.task.source_names(self.dataset.split, shown) if shown else []
        samples = [(name, self.references[i], text[i]) for name, i in zip(names, shown, strict=True)]
        return Validation(values, signatures, samples, maps)

    def _sources(self, examples) -> list:
        """Of these examples, with their tags."""
        split, task = self.dataset.split, self.task
        return task.tagged(task.inputs(split, examples), of_split(split, examples) if task.tags else {})

    def _decode(
        self, model, examples, signal: Callable[[], int | None]
    ) -> tuple[dict[int, tuple[list[int], str]], dict[str, int]]:
        """Ids and text of the best hypotheses of these examples, by example; and what is counted of them, if there is
        any."""
        (first, last), found = self.ranks.part(len(examples)), {}

        def tick() -> None:
            if number := signal():
                raise Stopped(number)

        with contextlib.suppress(Stopped):  # all ranks stop below
            if first < last:
                generator = generator_of(self.task, [model], self.decode, loaded=self.loaded, tick=tick)
                size = self.decode.buffer or self.task.buffer
                for start in range(first, last, size):
                    mine = examples[start : min(start + size, last)]
                    sources = self._sources(mine)
                    n_best = generator.generate(sources, first=start)
                    for i, source, (best, *_) in zip(mine, sources, n_best, strict=True):
                        if self.decode.on_error == "stop":
                            best.check(f"validation: sentence {i + 1}")
                        text = self.task.text(best.ids, plain(source))
                        found[i] = (best.ids, text), best.source_truncated, best.error is not None
        self._stop(signal)
        everything = {i: one for own in self.ranks.gather(found) for i, one in own.items()}
        counts = {"cut_sources": sum(cut for _, cut, _ in everything.values()),
                  "failed_sentences": sum(failed for *_, failed in everything.values())}  # fmt: skip
        written = {i: written for i, (written, *_) in everything.items()}
        return written, {name: count for name, count in counts.items() if count}

    def _stop(self, signal: Callable[[], int | None]) -> None:
        """Raise Stopped if a signal has come to any rank."""
        (number,) = self.ranks.largest([signal() or 0])
        if number:
            raise Stopped(number)

    def _loss(self, model, device: torch.device, autocast, signal: Callable[[], int | None]) -> dict[str, float]:
        names, counts = self.criterion.names(model), dict.fromkeys(self.criterion.count_names, 0)
        sums = torch.zeros(len(names), dtype=torch.float64, device=device)
        mine = self.batches[self.ranks.rank :: self.ranks.size]  # they are sorted by length
        for batch in prefetch(self.dataset.collate, mine, workers=1):
            if signal():
                break
            with autocast:
                result = self.criterion(model, batch.to(device))
            sums += torch.stack([result.metrics[name].double() for name in names])
            counts = {name: counts[name] + count for name, count in self.criterion.counts(batch).items()}
        self._stop(signal)
        sums = torch.cat([sums, torch.tensor(list(counts.values()), dtype=sums.dtype, device=device)])
        found = dict(zip([*names, *counts], self.ranks.total(sums).tolist(), strict=True))
        return {"loss": self.criterion.valid_loss(found), **metrics_of(found, self.criterion.divisors(model))}


def metrics_of(sums: dict[str, float], divisors: dict[str, str | None]) -> dict[str, float]:
    """A criterion's metrics, each for one of what it counts; `perplexity`, to base e, beside `nll`.

    Args:
        sums: Of metrics and counts, by name.
        divisors: As of `Criterion.divisors`. A metric without one is a number as it is, and left out where it is 0; one
            of which nothing is counted is left out, too.
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
    """Whether more of a metric is better."""
    return metric != "loss" and scoring.higher_is_better(metric)
