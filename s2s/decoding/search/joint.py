"""Beam search among candidates that the decoder and CTC have rated: see s2s/decoding/scorers/joint.py.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, C candidates of a row.
"""

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.scorers.joint import JointScorer
from s2s.decoding.search.beam import Beam
from s2s.decoding.search.choice import Choice
from s2s.text.vocabulary import EOS

PREBEAM, LEAST = 1.5, 8  # CTC rates so many times K candidates of each row, and at least so many


class JointBeam(Beam):
    """Beam search among the candidates of each row that both have rated.

    Args:
        config: Decode options.
        device: Of the model.
        scorer: Has the prefixes; they go on here, with the choice.
    """

    def __init__(self, config: DecodeConfig, device: torch.device | str, scorer: JointScorer):
        super().__init__(config, device)
        self.scorer = scorer
        self.choices = max(int(PREBEAM * config.beam_size), LEAST)

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """As Beam."""
        choice = super().__call__(logits, normalizer, scores, limits)
        parents = torch.zeros_like(choice.tokens) if choice.parents is None else choice.parents
        self.scorer.prefixes.advance(parents, choice.tokens)
        return choice

    def _continuations(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> tuple[Tensor, ...]:
        """As Beam, of C candidates."""
        may_end = (logits[:, EOS, None] - normalizer).view(scores.shape)
        tokens, values, end = super()._continuations(logits, normalizer, scores, limits)
        w, (gains, gain) = self.scorer.weight, self.scorer.prefixes.score(tokens)
        values = (1 - w) * values + w * gains.to(values.dtype)
        # Where no frame is left for another label, a hypothesis may be too short.
        end = torch.where((values == NEVER).all(2), may_end, end)
        return tokens, values, (1 - w) * end + w * gain.to(end.dtype)
