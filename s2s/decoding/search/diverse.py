"""Diverse beam search: groups that choose one after another, each away from what the earlier ones chose.

Shapes: B slots, G groups of k rows, K = G*k rows a slot, R = B*K rows, V vocabulary.
"""

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.search.beam import Beam
from s2s.decoding.search.choice import Choice
from s2s.text.vocabulary import EOS


class DiverseBeam(Beam):
    """Diverse beam search (Vijayakumar et al. 2016) with the Hamming penalty: each group is a beam search of k rows.

    At each step, `diverse_strength` times the count of a token among what earlier groups chose at this step (the tokens
    with which their rows go on, and each EOS that counted) is taken off its log-probability, for this choice alone: the
    scores that rows carry and hypotheses have are the model's. The first group is beam search with k rows.
    """

    def __init__(self, config: DecodeConfig, device: torch.device | str):
        super().__init__(config, device)
        self.groups, self.strength = config.diverse_groups, config.diverse_strength

    def first_scores(self, scores: Tensor) -> Tensor:
        """All rows of a sentence are the same at first, so only each group's first one counts. scores: [B, K] zeros."""
        scores.view(len(scores), self.groups, -1)[:, :, 1:] = NEVER
        return scores

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """As Beam."""
        (B, K), G, stuck = scores.shape, self.groups, limits.stuck
        k = K // G
        logits, normalizer = logits.view(B, G, k, -1), normalizer.view(B, G, k, 1)
        penalty = logits.new_zeros(B, logits.size(3))
        choices = []
        for g in range(G):
            rows = slice(g * k, (g + 1) * k)
            limits.stuck = None if stuck is None else stuck[:, rows]
            biased = (logits[:, g] - penalty[:, None]).flatten(0, 1)
            one = super().__call__(biased, normalizer[:, g].flatten(0, 1), scores[:, rows], limits)
            own, end = penalty.gather(1, one.tokens), penalty[:, EOS, None]
            parents = torch.zeros_like(one.tokens) if one.parents is None else one.parents
            choices.append((one.tokens, parents + g * k, one.log_probabilities + own, one.scores + own,
                            one.end_log_probabilities + end, one.end_scores + end))  # fmt: skip
            penalty = penalty.scatter_add(1, one.tokens, self.strength * (one.scores > NEVER).to(penalty.dtype))
            penalty[:, EOS] += self.strength * (one.end_scores > NEVER).sum(1)
        limits.stuck = stuck
        return Choice(*(torch.cat(parts, dim=1) for parts in zip(*choices, strict=True)))
