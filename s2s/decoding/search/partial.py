"""Beam search with partial scorers, which score only the best candidates of the models.

Shapes: B slots, K rows per slot, R = B*K rows, V vocabulary, C candidates per row.
"""

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.scorers.summed import Summed
from s2s.decoding.search.beam import Beam
from s2s.decoding.search.choice import Choice
from s2s.text.vocabulary import EOS

PREBEAM, LEAST = 1.5, 8  # partial scorers score PREBEAM * K candidates of each row, and at least LEAST


class PartialBeam(Beam):
    """Beam search among EOS and the candidates of each row that are best by the models.

    If no candidate is possible (CTC may have no frame left for another label), a row may end below the minimum length.

    Args:
        config: Decode options.
        device: Device of the models.
        scorer: The models with the partial scorers, which this class calls and advances.
    """

    skips = True

    def __init__(self, config: DecodeConfig, device: torch.device | str, scorer: Summed):
        super().__init__(config, device)
        self.scorer = scorer
        self.choices = max(int(PREBEAM * config.beam_size), LEAST)

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """As Beam."""
        choice = super().__call__(logits, normalizer, scores, limits)
        parents = torch.zeros_like(choice.tokens) if choice.parents is None else choice.parents
        for scorer in self.scorer.partial:
            scorer.advance(parents, choice.tokens)
        return choice

    def _continuations(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> tuple[Tensor, ...]:
        """As Beam, with C candidates."""
        may_end = (logits[:, EOS, None] - normalizer).view(scores.shape)
        tokens, values, end = super()._continuations(logits, normalizer, scores, limits)
        rated = [(scorer.weight, *scorer.rate(tokens)) for scorer in self.scorer.partial]
        values = self.scorer.share * values
        for weight, gains, _ in rated:
            values = values + weight * gains.to(values.dtype)
        end = torch.where((values == NEVER).all(2), may_end, end)
        end = self.scorer.share * end
        for weight, _, gain in rated:
            end = end + weight * gain.to(end.dtype)
        return tokens, values, end
