"""Validation: the criterion's value on held-out pairs, and metrics of decoded text with generate's own settings."""

import dataclasses
import math

import torch

from s2s import scoring
from s2s.data.iterator import prefetch
from s2s.data.plan import PlanConfig, plan


@dataclasses.dataclass
class Validation:
    """What a validation found.

    Attributes:
        values: Metric -> value; loss, nll (both in nats a target token), perplexity (base e), accuracy (%), and the
            decoded metrics asked for.
        signatures: Decoded metric -> how it was computed.
        samples: (source, reference, hypothesis) of a few sentences.
    """

    values: dict[str, float]
    signatures: dict[str, str]
    samples: list[tuple[str, str, str]]


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
    """

    def __init__(self, task, split, criterion, metrics: list[str], decode, data: PlanConfig, samples: int):
        self.task, self.criterion, self.decode = task, criterion, decode
        self.dataset = task.dataset(split)
        self.metrics = [name for name in metrics if name != "loss"]
        self.shown = samples
        lengths = self.dataset.lengths(0, len(self.dataset))
        self.batches = plan(*lengths, dataclasses.replace(data, batching="token_budget"), None).batches
        self.sources, self.references = split.source_text(), split.target_text()
        self.source_ids = [split.source(i).tolist() for i in range(len(split))]

    @torch.inference_mode()
    def __call__(self, model, device: torch.device, autocast) -> Validation:
        """Validate; the model comes back in training mode. `autocast` is a context manager for the forward pass."""
        model.eval()
        try:
            values = self._loss(model, device, autocast)
            # Without a decoded metric only the shown sentences are decoded, spread over the split.
            everything = range(len(self.dataset))
            shown = list(everything[:: max(1, len(everything) // self.shown)])[: self.shown] if self.shown else []
            wanted = list(everything) if self.metrics else shown
            text = self._decode(model, wanted) if wanted else {}
        finally:
            model.train()
        signatures = {}
        for name in self.metrics:
            score = scoring.score(name, [text[i] for i in everything], [self.references])
            values[name], signatures[name] = score.value, score.signature
        samples = [(self.sources[i], self.references[i], text[i]) for i in shown]
        return Validation(values, signatures, samples)

    def _decode(self, model, examples) -> dict[int, str]:
        """Best hypotheses of these examples as text, by example."""
        generator = self.task.generator([model], self.decode)
        n_best = generator.generate([self.source_ids[i] for i in examples])
        return {i: self.task.detokenize(best[0].ids) for i, best in zip(examples, n_best, strict=True)}

    def _loss(self, model, device: torch.device, autocast) -> dict[str, float]:
        loss = nll = correct = 0.0
        count = 0
        for batch in prefetch(self.dataset.collate, self.batches, workers=1):
            with autocast:
                result = self.criterion(model, batch.to(device))
            loss, nll = loss + result.sum.double(), nll + result.metrics["nll"].double()
            correct, count = correct + result.metrics["correct"], count + result.count
        loss, nll, correct = float(loss) / count, float(nll) / count, float(correct) / count
        return {"loss": loss, "nll": nll, "perplexity": math.exp(min(nll, 700.0)), "accuracy": 100 * correct}


def higher_is_better(metric: str) -> bool:
    """Whether more of a metric is better."""
    return metric != "loss" and scoring.higher_is_better(metric)
