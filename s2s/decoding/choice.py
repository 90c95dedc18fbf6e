"""How one step goes on: beam search or sampling, the only part of the step loop in which they differ.

Shapes: B sentences, K rows a sentence, R = B*K rows, V vocabulary. A dead row has score -inf. Masked tokens are not
renormalised away: log-probabilities stay those of the model.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.limits import Limits
from s2s.nn.slots import kept
from s2s.text.vocabulary import BOS, EOS, PAD, UNK

NEVER = float("-inf")


class Choice(NamedTuple):
    """What a step decided, each [B, K].

    Attributes:
        tokens: int64, what each row goes on with.
        parents: int64, the row of the same sentence it goes on from; None: each from itself.
        log_probabilities: Of the tokens.
        scores: Sum of the log-probabilities of each new row, descending in beam search; -inf for a dead row.
        end_log_probabilities: Of EOS after each OLD row.
        end_scores: Sum of the log-probabilities of each OLD row if it ended with EOS in this step, else -inf.
        ended: False if it is known that no row ended with EOS and no sentence is without live rows.
    """

    tokens: Tensor
    parents: Tensor | None
    log_probabilities: Tensor
    scores: Tensor
    end_log_probabilities: Tensor
    end_scores: Tensor
    ended: bool = True


class Beam:
    """Beam search: the K best continuations live on, and a hypothesis that ends never costs a place among them.

    Of the up to 2K candidates (the K best continuations by a token and the K rows ended by EOS) an EOS counts only if
    it is among the K best: a hypothesis that leaves the beam is lost whether it ends or not. This is fairseq's rule.

    Attributes:
        choices: So many continuations of each row can be chosen, and at least K.
    """

    choices = 1

    def __init__(self, config: DecodeConfig, device: torch.device | str):
        self.config = config
        forbidden = [PAD, BOS, EOS] if config.allow_unknown else [PAD, UNK, BOS, EOS]
        self.forbidden = torch.tensor(forbidden, device=device)  # EOS is looked at by itself

    def first_scores(self, scores: Tensor) -> Tensor:
        """All rows of a sentence are the same at first, so only its first one counts. scores: [B, K] zeros."""
        scores[:, 1:] = NEVER
        return scores

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """logits: [R, V], changed here; normalizer: [R, 1]; scores: [B, K]."""
        K = scores.size(1)
        tokens, values, end = self._continuations(logits, normalizer, scores, limits)
        best, place = (scores[:, :, None] + values).flatten(1).topk(K, dim=1)
        end_scores = scores + end
        worst = torch.cat([best, end_scores], dim=1).topk(K, dim=1).values[:, -1:]
        return Choice(
            tokens.flatten(1).gather(1, place),
            None if K == 1 else place.div(tokens.size(2), rounding_mode="floor"),
            values.flatten(1).gather(1, place),
            best,
            end,
            torch.where(end_scores >= worst, end_scores, NEVER),
        )

    def _continuations(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> tuple[Tensor, ...]:
        """Each row's best tokens and their log-probabilities, [B, K, up to K or `choices`], -inf for none; and
        EOS's, [B, K]."""
        B, K = scores.shape
        end = (logits[:, EOS, None] - normalizer).view(B, K)
        early, late, forced = limits.early(), limits.late(), limits.forced()
        if forced is not None:
            forced_value = _pick(logits, normalizer, forced[1].expand(B, K))
        logits.index_fill_(1, self.forbidden, NEVER)
        values, tokens = logits.topk(min(max(K, self.choices), logits.size(1)), dim=1)
        width = values.size(1)
        values, tokens = (values - normalizer).view(B, K, width), tokens.view(B, K, width)
        if early is not None:
            end = end.masked_fill(early, NEVER)
        if late is not None:
            values = values.masked_fill(late[:, :, None], NEVER)
        if forced is not None:
            mask, token = forced
            values = values.masked_fill(mask[:, :, None], NEVER)
            values[:, :, 0] = torch.where(mask, forced_value, values[:, :, 0])
            tokens[:, :, 0] = torch.where(mask, token, tokens[:, :, 0])
        return tokens, real(values), real(end)  # NaN would be the best of all

    def admit(self, slots: Tensor, numbers: list[int]) -> None:
        """Nothing is kept for a sentence."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Nothing is kept for a sentence."""


class Sampling:
    """Sampling: K independent draws a sentence from softmax(logits / temperature), cut to the k most probable tokens,
    then to the most probable ones that together reach p (of what top-k has left), then to those of at least epsilon
    (of what is left; Hewitt et al. 2022).

    The draw of a token is the inverse of the cumulative distribution, in the vocabulary's order, at a number that
    depends on nothing but (seed, number of the sentence, number of the sample, step). So a sentence's samples do not
    depend on its batch, and a near tie cannot swap two tokens.
    """

    def __init__(self, config: DecodeConfig, slots: int, device: torch.device | str, seed: int):
        self.config, self.seed = config, seed
        self.forbidden = torch.tensor([PAD, BOS] if config.allow_unknown else [PAD, UNK, BOS], device=device)
        self.samples = torch.arange(config.n_best, device=device)
        self.keys = self.samples.expand(slots, -1).clone()  # [B, K]

    def first_scores(self, scores: Tensor) -> Tensor:
        """Every row counts. scores: [B, K] zeros."""
        return scores

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """logits: [R, V], changed here; normalizer: [R, 1]; scores: [B, K]."""
        B, K = scores.shape
        early, late, forced = limits.early(), limits.late(), limits.forced()
        if forced is not None:
            forced_value = _pick(logits, normalizer, forced[1].expand(B, K))
        logits.index_fill_(1, self.forbidden, NEVER)
        if early is not None:
            end = logits[:, EOS].view(B, K)  # a view: the logits themselves change
            end.masked_fill_(early, NEVER)
        tokens = draw(self._filter(logits / self.config.temperature), uniform(_hash(self.keys, limits.done)).flatten())
        tokens = tokens.view(B, K)
        if late is not None:
            tokens = tokens.masked_fill(late, EOS)
        values = _pick(logits, normalizer, tokens)
        if forced is not None:
            mask, token = forced
            tokens, values = torch.where(mask, token, tokens), torch.where(mask, forced_value, values)
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
        """Sentences of these numbers in the input take these slots."""
        sentences = torch.tensor(numbers, device=slots.device)
        start = _hash(_hash(torch.zeros_like(sentences), self.seed), sentences)
        self.keys[slots] = _hash(start[:, None].expand(-1, len(self.samples)), self.samples)

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""
        self.keys = kept(self.keys, keep, slots)


def real(scores: Tensor) -> Tensor:
    """Scores with minus infinity in place of NaN: what a model says nothing of is never chosen."""
    return scores.nan_to_num(NEVER, float("inf"), NEVER)


def _pick(logits: Tensor, normalizer: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [B, K] of one token a row; tokens: [B, K]."""
    return (logits.gather(1, tokens.reshape(-1, 1)) - normalizer).view(tokens.shape)


def draw(logits: Tensor, numbers: Tensor) -> Tensor:
    """One token a row by inversion of the cumulative distribution.

    Args:
        logits: [R, V].
        numbers: [R] float64 in (0, 1).

    Returns:
        [R] int64; never a token whose logit is -inf.
    """
    cumulative = logits.double().softmax(dim=1).cumsum(dim=1)
    place = torch.searchsorted(cumulative, numbers[:, None] * cumulative[:, -1:], right=True)
    return place.clamp_(max=logits.size(1) - 1).squeeze(1)  # over the end only if the logits are not finite


def uniform(bits: Tensor) -> Tensor:
    """float64 numbers in (0, 1) from the upper 32 bits of int64 ones."""
    return (((bits >> 32) & 0xFFFFFFFF).double() + 0.5) * 2.0**-32


def _hash(state: Tensor, value: Tensor | int) -> Tensor:
    """Mix a value into a state, elementwise: one step of splitmix64 (Steele et al. 2014). int64, wrapping around."""
    increment = (value + 1) * -0x61C8864680B583EB  # 0x9E3779B97F4A7C15 as a signed number
    if isinstance(increment, int):
        increment = (increment + (1 << 63)) % (1 << 64) - (1 << 63)
    x = state + increment
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
