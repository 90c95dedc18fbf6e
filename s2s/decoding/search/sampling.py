"""Sampling from the model's distribution, or from its most probable part.

Shapes: B sentences, K samples per sentence, R = B*K rows, V vocabulary.
"""

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.noise import mix, uniform
from s2s.decoding.search.choice import Choice, Chooser, pick, pick_inside
from s2s.nn.slots import kept
from s2s.text.vocabulary import BOS, EOS, PAD, UNK


class Sampling(Chooser):
    """Sampling: K independent samples per sentence from softmax(logits / temperature).

    The distribution is cut to the `top_k` most probable tokens, then to the most probable tokens that add up to
    `top_p`, then to those of at least `epsilon` (Hewitt et al. 2022); each filter sees what the one before has left,
    normalised again.

    A token is drawn by inverting the cumulative distribution, in the order of the vocabulary, at a number that depends
    only on (seed, number of the sentence, number of the sample, step). So the samples of a sentence do not depend on
    its batch, and rounding cannot swap two tokens of nearly the same probability.
    """

    first = numbered = True

    def __init__(self, config: DecodeConfig, slots: int, device: torch.device | str, seed: int):
        self.config, self.seed = config, seed
        self.forbidden = torch.tensor([PAD, BOS] if config.allow_unknown else [PAD, UNK, BOS], device=device)
        self.samples = torch.arange(config.n_best, device=device)
        self.keys = self.samples.expand(slots, -1).clone()  # [B, K]

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """logits: [R, V], changed here; normalizer: [R, 1]; scores: [B, K]."""
        B, K = scores.shape
        early, late, forced = limits.early(), limits.late(), limits.forced()
        if forced is not None:
            forced_token, forced_value = pick_inside(logits, normalizer, forced[1].expand(B, K))
        logits.index_fill_(1, self.forbidden, NEVER)
        if early is not None:
            end = logits[:, EOS].view(B, K)  # a view: the logits themselves change
            end.masked_fill_(early, NEVER)
        tokens = draw(self._filter(logits / self.config.temperature), uniform(mix(self.keys, limits.done)).flatten())
        tokens = tokens.view(B, K)
        if late is not None:
            tokens = tokens.masked_fill(late, EOS)
        values = pick(logits, normalizer, tokens)
        if forced is not None:
            mask = forced[0]
            tokens, values = torch.where(mask, forced_token, tokens), torch.where(mask, forced_value, values)
        scores = scores + values
        ended = tokens == EOS
        end_scores = scores.masked_fill(~ended, NEVER)
        return Choice(tokens, None, values, scores.masked_fill(ended, NEVER), values, end_scores)

    def _filter(self, logits: Tensor) -> Tensor:
        """Set the logits outside top-k, top-p and epsilon to -inf."""
        top_k, top_p, epsilon = self.config.top_k, self.config.top_p, self.config.epsilon
        if 0 < top_k < logits.size(1):
            least = logits.topk(top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, NEVER)
        if top_p < 1:
            probabilities = logits.double().softmax(dim=1)
            falling = probabilities.sort(dim=1, descending=True).values
            before = falling.cumsum(dim=1) - falling  # the mass of all more probable tokens
            needed = (before < top_p).sum(dim=1, keepdim=True).clamp(min=1)
            logits = logits.masked_fill(probabilities < falling.gather(1, needed - 1), NEVER)
        if epsilon > 0:
            probabilities = logits.double().softmax(dim=1)
            least = probabilities.amax(dim=1, keepdim=True).clamp(max=epsilon)  # the most probable token always stays
            logits = logits.masked_fill(probabilities < least, NEVER)
        return logits

    def admit(self, slots: Tensor, numbers: list[int]) -> None:
        """Put sentences into these slots [n]; numbers: their numbers in the input."""
        sentences = torch.tensor(numbers, device=slots.device)
        start = mix(mix(torch.zeros_like(sentences), self.seed), sentences)
        self.keys[slots] = mix(start[:, None].expand(-1, len(self.samples)), self.samples)

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones."""
        self.keys = kept(self.keys, keep, slots)


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """Draw one token per row by inverting the cumulative distribution.

    Args:
        logits: [R, V].
        numbers: [R] float64 in (0, 1).

    Returns:
        [R] int64; never a token whose logit is -inf.
    """
    cumulative = logits.double().softmax(dim=1).cumsum(dim=1)
    place = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)
    return place.clamp_(max=logits.size(1) - 1).squeeze(1)  # past the end only if logits are not finite
