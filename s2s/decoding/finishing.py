"""What is computed for finished hypotheses: alignments, times of tokens, and the values of final scorers.

Shapes: B hypotheses, T target positions (EOS among them), S positions of the memory of a source.
"""

import functools
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.alignment import Attention
from s2s.decoding.budget import plan
from s2s.decoding.config import DecodeConfig
from s2s.decoding.fitting import fitting
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.scorers.scorer import FinalScorer
from s2s.decoding.setting import Setting
from s2s.decoding.times import token_times
from s2s.text.vocabulary import BOS, EOS

Ids = list[int]
Results = list[tuple[int, list[Hypothesis]]]


class Finished:
    """A batch of finished hypotheses with their sources. What several scorers read is computed once.

    Attributes:
        setting: Models and task.
        sources: Source ids of each hypothesis, without EOS.
        hypotheses: B hypotheses.
        inputs: The sources as the models' input.
    """

    def __init__(self, setting: Setting, sources: list[Ids], hypotheses: list[Hypothesis], attention: Attention | None):
        self.setting, self.sources, self.hypotheses = setting, sources, hypotheses
        self.inputs, self._attention = setting.collate(sources), attention

    @functools.cache  # noqa: B019 - the cache lives no longer than the batch
    def attention(self) -> list[np.ndarray]:
        """Attention weights of `decode.alignment_layer`: float32 [T, S] for each hypothesis."""
        weights = self._attention(self.inputs, self.forced()[0])
        pairs = zip(weights, self.hypotheses, strict=True)
        return [matrix[: len(hypothesis.ids) + 1] for matrix, hypothesis in pairs]

    def forced(self) -> tuple[Tensor, Tensor]:
        """The hypotheses for teacher forcing, as the function `forced` returns them."""
        targets = [hypothesis.ids for hypothesis in self.hypotheses]
        return forced(targets, self.setting.device, self.setting.first(self.sources))


class Finishing:
    """Adds alignments and times to hypotheses, and ranks them again by final scorers.

    Args:
        config: Decode options.
        setting: Models and task.
        alignment: Whether to add alignments.
        attention: Whether to add the weights, too.
        scorers: Final scorers; their values are added to the scores.
    """

    def __init__(self, config: DecodeConfig, setting: Setting, alignment: bool, scorers: list[FinalScorer],
                 attention: bool = False):  # fmt: skip
        self.config, self.setting, self.alignment, self.scorers = config, setting, alignment, scorers
        self.weights = attention
        attends = alignment or any(scorer.attends for scorer in scorers)
        self.attention = Attention(setting.models, config) if attends else None

    def of(self, results: Iterator[Results], sources: list[Ids], timed: bool) -> Iterator[Results]:
        """Finish the hypotheses of a search.

        Args:
            results: Lists of (index, hypotheses).
            sources: Source ids by index.
            timed: Whether to add the times of tokens.

        Yields:
            Lists of (index, hypotheses); the hypotheses are changed in place.
        """
        if not (self.alignment or self.scorers or timed):
            yield from results
            return
        waiting: Results = []
        tokens = 0
        for batch in results:
            waiting += batch
            tokens += sum(len(hypothesis.ids) + 1 for _, n_best in batch for hypothesis in n_best)
            if tokens >= self.config.batch_tokens:
                yield self._finish(waiting, sources, timed)
                waiting, tokens = [], 0
        if waiting:
            yield self._finish(waiting, sources, timed)

    def _finish(self, results: Results, sources: list[Ids], timed: bool) -> Results:
        """Finish a part of the results, in batches that fit into memory."""
        items = [(i, sources[i], hypothesis) for i, n_best in results for hypothesis in n_best
                 if hypothesis.error is None]  # fmt: skip
        lengths = [max(self.setting.positions(source), len(hypothesis.ids) + 1) for _, source, hypothesis in items]
        failed = {}
        for batch in plan(lengths, 1, self.config.batch_tokens):
            for errors in fitting(lambda part: self._look(part, timed), {place: items[place] for place in batch}):
                failed |= {items[place][0]: error for place, error in errors if error}
        results = [(i, failed.get(i, n_best)) for i, n_best in results]
        if not self.scorers:
            return results
        limit = self.config.n_best
        return [(i, sorted(n_best, key=lambda hypothesis: -hypothesis.score)[:limit]) for i, n_best in results]

    @torch.inference_mode()
    def _look(self, items: list[tuple[int, Ids, Hypothesis]], timed: bool) -> tuple:
        """Finish one batch of (index, source, hypothesis), in place; returns no results, as `fitting` expects them."""
        sources, hypotheses = [source for _, source, _ in items], [hypothesis for *_, hypothesis in items]
        batch = Finished(self.setting, sources, hypotheses, self.attention)
        if timed:
            targets = [hypothesis.ids for hypothesis in hypotheses]
            all_times = token_times(self.setting.models[0], batch.inputs, targets, self.setting.sides.seconds)
            for hypothesis, times in zip(hypotheses, all_times, strict=True):
                hypothesis.times = times
        if self.alignment:
            for hypothesis, weights in zip(hypotheses, batch.attention(), strict=True):
                hypothesis.alignment = weights.argmax(axis=1).tolist()
                hypothesis.attention = weights.tolist() if self.weights else None
        for scorer in self.scorers:
            for hypothesis, value in zip(hypotheses, scorer.rate(batch), strict=True):
                hypothesis.score += scorer.weight * value
        return ()


def forced(targets: list[Ids], device: torch.device, first: Tensor | int = BOS) -> tuple[Tensor, Tensor]:
    """Targets for teacher forcing.

    Args:
        targets: Target ids of each sentence.
        device: Where the result is.
        first: What the decoder reads first, as `Setting.first`.

    Returns:
        The decoder's input, `first` before the others, and the tokens that it predicts; both [B, T] int64, padded with
        EOS.
    """
    target = torch.full((len(targets), max(map(len, targets)) + 1), EOS)
    for row, ids in zip(target, targets, strict=True):
        row[: len(ids)] = torch.as_tensor(ids)
    decoder_input = torch.cat([torch.full((len(targets), 1), BOS), target[:, :-1]], dim=1).to(device)
    decoder_input[:, :1] = first
    return decoder_input, target.to(device)
