"""Stochastic beam search: samples without replacement.

Shapes: B slots, K rows per slot, R = B*K rows, V vocabulary.
"""

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.noise import mix, uniform
from s2s.decoding.search.choice import Choice
from s2s.decoding.search.sampling import Sampling
from s2s.nn.slots import kept
from s2s.text.vocabulary import EOS


class StochasticBeam(Sampling):
    """Stochastic beam search (Kool et al. 2019, algorithm 1): K samples without replacement from the distribution of
    Sampling, in the order in which they are drawn.

    The perturbed log-probability of a hypothesis is its log-probability plus Gumbel noise; the hypotheses with the K
    largest ones are the sample. The score of a row is the largest perturbed log-probability among all hypotheses that
    continue it, and the noise of its children is conditioned on this maximum. So no child exceeds its parent, and K
    live rows are enough. The noise depends only on (seed, number of the sentence, tokens of the hypothesis).
    """

    first = scored = numbered = False

    def __init__(self, config: DecodeConfig, slots: int, device: torch.device | str, seed: int):
        super().__init__(config, slots, device, seed)
        self.keys = torch.zeros(slots, config.rows, dtype=torch.int64, device=device)
        self.totals = torch.zeros(slots, config.rows, dtype=torch.float64, device=device)  # log-probabilities of rows

    def first_scores(self, scores: Tensor) -> Tensor:
        """Only the first row is live; any score will do for it. scores: [B, K] zeros, changed."""
        scores[:, 1:] = NEVER
        return scores

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """logits: [R, V]; normalizer: [R, 1]; scores: [B, K], perturbed."""
        (B, K), V = scores.shape, logits.size(1)
        every = torch.arange(V, device=logits.device)
        x = logits.index_fill(1, self.forbidden, NEVER).view(B, K, V)
        early, late, forced = limits.early(), limits.late(), limits.forced()
        if early is not None:
            x[:, :, EOS] = x[:, :, EOS].masked_fill(early, NEVER)
        if late is not None:
            x = x.masked_fill(late[:, :, None] & (every != EOS), NEVER)
        if forced is not None:  # a forced token may be one that is never sampled
            mask, token = forced[0][:, :, None], forced[1][:, :, None]
            x = torch.where(mask, torch.where(every == token, 0.0, NEVER), x)
        log_probabilities = self._filter(x.flatten(0, 1) / self.config.temperature).double().log_softmax(dim=1)
        totals = self.totals[:, :, None] + log_probabilities.view(B, K, V)
        keys = mix(self.keys[:, :, None], every)
        noisy = totals - (-uniform(keys).log()).log()
        most = scores[:, :, None].double()
        v = most - noisy + (-(noisy - noisy.amax(dim=2, keepdim=True)).exp()).log1p()
        perturbed = most - v.clamp(min=0) - (-v.abs()).exp().log1p()  # appendix B.3: the maximum becomes `most`
        perturbed = torch.where((most > NEVER) & (noisy > NEVER), perturbed, NEVER)
        ended = perturbed[:, :, EOS].clone()
        perturbed[:, :, EOS] = NEVER
        best, place = perturbed.flatten(1).topk(K, dim=1)
        parents = place.div(V, rounding_mode="floor")
        self.totals, self.keys = totals.flatten(1).gather(1, place), keys.flatten(1).gather(1, place)
        values = logits.view(B, K * V).gather(1, place) - normalizer.view(B, K).gather(1, parents)
        return Choice(place % V, parents, values, best, (logits[:, EOS, None] - normalizer).view(B, K), ended)

    def admit(self, slots: Tensor, numbers: list[int]) -> None:
        """Put sentences into these slots [n]; numbers: their numbers in the input."""
        sentences = torch.tensor(numbers, device=slots.device)
        self.keys[slots] = mix(mix(torch.zeros_like(sentences), self.seed), sentences)[:, None]
        self.totals[slots] = 0

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones."""
        super().release(keep, slots)
        self.totals = kept(self.totals, keep, slots)
