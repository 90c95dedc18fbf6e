"""What is found of hypotheses when a search has ended: alignments, times of tokens, and the values of final scorers.

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
    """A batch of hypotheses with their sources; what several ask for is computed once.

    Attributes:
        setting: Models and task.
        sources: Source ids of each, without EOS.
        hypotheses: B.
        inputs: The sources as the models' input.
    """

    def __init__(self, setting: Setting, sources: list[Ids], hypotheses: list[Hypothesis], attention: Attention | None):
        self.setting, self.sources, self.hypotheses = setting, sources, hypotheses
        self.inputs, self._attention = setting.collate(sources), attention

    @functools.cache  # noqa: B019 - it is as short-lived as the batch
    def attention(self) -> list[np.ndarray]:
        """float32 [T, S] of each hypothesis: weights of the attention of `decode.alignment_layer`."""
        weights = self._attention(self.inputs, self.forced()[0])
        return [found[: len(one.ids) + 1] for found, one in zip(weights, self.hypotheses, strict=True)]

    def forced(self) -> tuple[Tensor, Tensor]:
        """As the function, of the hypotheses."""
        return forced([one.ids for one in self.hypotheses], self.setting.device)


class Finishing:
    """What is found of hypotheses.

    Args:
        config: Decode options.
        setting: Models and task.
        alignment: Whether hypotheses are given their alignments.
        scorers: Rank all that a search has found.
    """

    def __init__(self, config: DecodeConfig, setting: Setting, alignment: bool, scorers: list[FinalScorer]):
        self.config, self.setting, self.alignment, self.scorers = config, setting, alignment, scorers
        attends = alignment or any(scorer.attends for scorer in scorers)
        self.attention = Attention(setting.models, config) if attends else None

    def of(self, results: Iterator[Results], sources: list[Ids], timed: bool) -> Iterator[Results]:
        """Lists of (index, hypotheses), with what is found; `timed`: and with the times of their tokens."""
        if not (self.alignment or self.scorers or timed):
            yield from results
            return
        waiting: Results = []
        tokens = 0
        for some in results:
            waiting += some
            tokens += sum(len(one.ids) + 1 for _, found in some for one in found)
            if tokens >= self.config.batch_tokens:
                yield self._finish(waiting, sources, timed)
                waiting, tokens = [], 0
        if waiting:
            yield self._finish(waiting, sources, timed)

    def _finish(self, results: Results, sources: list[Ids], timed: bool) -> Results:
        """Some of `of`, which are changed here."""
        pairs = [(i, sources[i], one) for i, found in results for one in found if one.error is None]
        lengths = [max(self.setting.positions(source), len(one.ids) + 1) for _, source, one in pairs]
        failed = {}
        for batch in plan(lengths, 1, self.config.batch_tokens):
            for found in fitting(lambda some: self._look(some, timed), {place: pairs[place] for place in batch}):
                failed |= {pairs[place][0]: errors for place, errors in found if errors}
        results = [(i, failed.get(i, found)) for i, found in results]
        if not self.scorers:
            return results
        return [(i, sorted(found, key=lambda one: -one.score)[: self.config.n_best]) for i, found in results]

    @torch.inference_mode()
    def _look(self, some: list[tuple[int, Ids, Hypothesis]], timed: bool) -> tuple:
        """One batch of `_finish`, which are changed here; nothing else is found."""
        batch = Finished(self.setting, [source for _, source, _ in some], [one for *_, one in some], self.attention)
        if timed:
            targets = [one.ids for one in batch.hypotheses]
            found = token_times(self.setting.models[0], batch.inputs, targets, self.setting.sides.seconds)
            for one, times in zip(batch.hypotheses, found, strict=True):
                one.times = times
        if self.alignment:
            for one, weights in zip(batch.hypotheses, batch.attention(), strict=True):
                one.alignment = weights.argmax(axis=1).tolist()
        for scorer in self.scorers:
            for one, value in zip(batch.hypotheses, scorer.rate(batch), strict=True):
                one.score += scorer.weight * value
        return ()


def forced(targets: list[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Targets for teacher forcing: the decoder's input, BOS first, and what it is to predict, padded with EOS. Both
    [B, T] int64."""
    target = torch.full((len(targets), max(map(len, targets)) + 1), EOS)
    for row, ids in zip(target, targets, strict=True):
        row[: len(ids)] = torch.as_tensor(ids)
    decoder_input = torch.cat([torch.full((len(targets), 1), BOS), target[:, :-1]], dim=1)
    return decoder_input.to(device), target.to(device)
