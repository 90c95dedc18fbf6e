"""Diverse beam search: groups choose one after another, and each avoids the choices of the earlier ones.

Shapes: B slots, G groups of k rows, K = G*k rows per slot, R = B*K rows, V vocabulary.
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

    At each step, a token is penalised by `diverse_strength` times its count among the choices of earlier groups at this
    step (the next tokens of their rows, and each EOS that counted). The penalty affects only the choice: the scores of
    rows and hypotheses stay those of the model. The first group is beam search with k rows.
    """

    def __init__(self, config: DecodeConfig, device: torch.device | str):
        super().__init__(config, device)
        self.groups, self.strength = config.diverse_groups, config.diverse_strength

    def first_scores(self, scores: Tensor) -> Tensor:
        """Only each group's first row is live, since all rows are the same. scores: [B, K] zeros, changed."""
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
            choice = super().__call__(biased, normalizer[:, g].flatten(0, 1), scores[:, rows], limits)
            own, end = penalty.gather(1, choice.tokens), penalty[:, EOS, None]
            parents = torch.zeros_like(choice.tokens) if choice.parents is None else choice.parents
            choices.append((choice.tokens, parents + g * k, choice.log_probabilities + own, choice.scores + own,
                            choice.end_log_probabilities + end, choice.end_scores + end))  # fmt: skip
            penalty = penalty.scatter_add(1, choice.tokens, self.strength * (choice.scores > NEVER).to(penalty.dtype))
            penalty[:, EOS] += self.strength * (choice.end_scores > NEVER).sum(1)
        limits.stuck = stuck
        return Choice(*(torch.cat(fields, dim=1) for fields in zip(*choices, strict=True)))
