"""The weighted sum of the models' scores and those of further scorers.

Shapes: B sentences, K rows per sentence, R = B*K rows, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from s2s.data.batch import Inputs
from s2s.decoding.scorers.ensemble import EnsembleScorer
from s2s.decoding.scorers.model import ModelScorer
from s2s.decoding.scorers.scorer import FullScorer, PartialScorer, Scorer


class Summed:
    """The scorer of the models with further scorers.

    Args:
        models: The scorer of the models.
        scorers: At least one further scorer.

    Attributes:
        full: Scorers of every token.
        partial: Scorers of candidates; PartialBeam calls them.
        share: Weight of the models in the sum.
        native: Whether dead rows cost no computation.
    """

    def __init__(self, models: ModelScorer | EnsembleScorer, scorers: list[Scorer]):
        self.models, self.scorers = models, scorers
        self.full = [scorer for scorer in scorers if isinstance(scorer, FullScorer)]
        self.partial = [scorer for scorer in scorers if isinstance(scorer, PartialScorer)]
        self.share = 1 - sum(scorer.weight for scorer in scorers if scorer.shares)
        self.native, self.max_length = models.native and not self.full, models.max_length

    @property
    def falls(self) -> bool:
        """As in `Scorer`."""
        return all(scorer.falls for scorer in self.scorers)

    def prepare(self, inputs: Inputs, rows: int) -> tuple[Any, list[Any]]:
        memories = self.models.encode(inputs)  # which the compiled encoder does not have
        started = self.models.start(memories, rows)
        return started, [scorer.prepare(inputs, memories, rows) for scorer in self.scorers]

    def admit(self, slots: Tensor, prepared: tuple[Any, list[Any]], which: Tensor, size: int) -> None:
        state, others = prepared
        self.models.admit(slots, state, which, size)
        for scorer, other in zip(self.scorers, others, strict=True):
            scorer.admit(slots, other, which, size)

    def step(self, tokens: Tensor, live: Tensor | None = None, fused: bool = False) -> tuple[Tensor, Tensor]:
        """As ModelScorer.step, without partial scorers. With full scorers, the logits are sums of values divided by the
        models' share, by which the caller multiplies them, and the normaliser is 0."""
        logits, normalizer = self.models.step(tokens, live, fused)
        if not self.full:
            return logits, normalizer
        logits = logits.sub_(normalizer)
        for scorer in self.full:
            logits.add_(scorer.step(tokens).to(logits.dtype), alpha=scorer.weight / self.share)
        return logits, torch.zeros_like(normalizer)

    def score(self, inputs: Inputs, decoder_input: Tensor, target: Tensor) -> Tensor:
        """As ModelScorer.score."""
        memories = self.models.encode(inputs)
        total = self.share * self.models.score_of(memories, decoder_input, target)
        for scorer in self.scorers:
            total = total + scorer.weight * scorer.score(inputs, memories, decoder_input, target).to(total.dtype)
        return total

    def _each(self) -> Iterator[Any]:
        yield self.models
        yield from self.scorers

    def reorder(self, parents: Tensor) -> None:
        for scorer in (self.models, *self.full):
            scorer.reorder(parents)

    def free(self, slots: Tensor) -> None:
        for scorer in self._each():
            scorer.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        for scorer in self._each():
            scorer.release(keep, slots)

    def close(self) -> None:
        for scorer in self._each():
            scorer.close()

    @property
    def nbytes(self) -> int:
        return sum(scorer.nbytes for scorer in self._each())
