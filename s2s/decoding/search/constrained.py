"""Positive constraints: phrases that a hypothesis must contain, by dynamic beam allocation.

Shapes: B slots, K rows per slot, R = B*K rows, V vocabulary, J phrases of a sentence, n tokens of the longest phrase,
W candidates of a row, C candidates of a sentence.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.search.beam import Beam
from s2s.decoding.search.choice import Choice, without_nan
from s2s.nn.slots import kept
from s2s.text.vocabulary import PAD

Ids = list[int]


class ConstrainedBeam(Beam):
    """Beam search that divides its rows among hypotheses by how much of the constraints they have met (Post and Vilar
    2018; vectorised as by Hu et al. 2019).

    A hypothesis covers all tokens of a phrase that it contains. Of another phrase it covers the longest beginning with
    which the hypothesis ends. Hypotheses that cover the same number of tokens form a bank. Candidates are the K best
    continuations of each row, and the next token of each phrase that it does not contain. The banks take turns, from
    the one that covers most: the best candidate of every bank, then the second best of every bank, and so on. The first
    K candidates live on. A hypothesis may end only when it contains all phrases; its EOS counts if it is among the
    first K of all candidates. If no hypothesis can contain all phrases, those that lack the fewest are returned.
    Without phrases this is Beam.

    Args:
        config: Decode options.
        slots: B.
        constraints: Number of each sentence in the input -> token ids of its phrases, each of at least one token.
        device: Device of the models.
    """

    without: ClassVar = dict.fromkeys(
        ["diverse_groups", "shortlist"], "constraints divide the rows among hypotheses by the phrases they contain"
    )

    def __init__(self, config: DecodeConfig, slots: int, constraints: Mapping[int, list[Ids]], device):
        super().__init__(config, device)
        self.constraints = {number: list(dict.fromkeys(map(tuple, rows))) for number, rows in constraints.items()}
        J = max(map(len, self.constraints.values()))
        n = max(len(phrase) for phrases in self.constraints.values() for phrase in phrases)
        self.phrases = torch.zeros(slots, J, n, dtype=torch.int64, device=device)  # PAD after the last token
        self.lengths = torch.zeros(slots, J, dtype=torch.int64, device=device)  # 0: no phrase
        self.history = torch.zeros(slots, config.rows, n, dtype=torch.int64, device=device)  # last tokens, or PAD
        self.held = torch.zeros(slots, config.rows, J, dtype=torch.bool, device=device)  # which rows contain the phrase
        self.ended = torch.zeros(slots, dtype=torch.bool, device=device)  # a hypothesis with all phrases has finished
        self.places = torch.arange(1, n + 1, device=device)

    def admit(self, slots: Tensor, numbers: list[int]) -> None:
        """Put sentences into these slots [n]; numbers: their numbers in the input."""
        phrases = torch.zeros(len(numbers), *self.phrases.shape[1:], dtype=torch.int64)
        lengths = torch.zeros(phrases.shape[:2], dtype=torch.int64)
        for i, number in enumerate(numbers):
            for j, phrase in enumerate(self.constraints.get(number, ())):
                phrases[i, j, : len(phrase)], lengths[i, j] = torch.tensor(phrase), len(phrase)
        self.phrases[slots], self.lengths[slots] = phrases.to(slots.device), lengths.to(slots.device)
        self.history[slots], self.ended[slots] = PAD, False
        self.held[slots] = (self.lengths[slots] == 0)[:, None]

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones."""
        for name in ("phrases", "lengths", "history", "held", "ended"):
            setattr(self, name, kept(getattr(self, name), keep, slots))

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """As Beam, but the scores are not sorted."""
        (B, K), J = scores.shape, self.lengths.size(1)
        tokens, values, end = self._continuations(logits, normalizer, scores, limits)
        W = tokens.size(2)
        covered, held = self._covered(tokens)
        banks = covered.sum(3).flatten(1)  # [B, K * W]
        most = self.lengths.sum(1, keepdim=True)
        totals = (scores[:, :, None] + values).flatten(1)
        place = self._turns(totals, banks, most).topk(K, dim=1, largest=False).indices
        best = totals.gather(1, place)

        complete = self.held.all(2)
        end_scores = (scores + end).masked_fill(~complete, NEVER)
        every = torch.cat([totals, end_scores], dim=1)
        turns = self._turns(every, torch.cat([banks, most.expand(B, K)], dim=1), most)
        last = turns.topk(K, dim=1, largest=False).values[:, -1:]
        counts = turns[:, K * W :] <= last
        self.ended |= (counts & (end_scores > NEVER)).any(1)
        # No row can continue, and no hypothesis with all phrases has ended: the live rows end incomplete.
        over = ((best == NEVER).all(1) & ~self.ended)[:, None]
        partial = over & (scores > NEVER)
        lacking = (~self.held).sum(2).masked_fill(~partial, J + 1)
        partial &= lacking == lacking.amin(1, keepdim=True)
        end_scores = torch.where(partial, scores + end, end_scores.masked_fill(~counts, NEVER))

        parents, tokens = place.div(W, rounding_mode="floor"), tokens.flatten(1).gather(1, place)
        self.held = held.flatten(1, 2).gather(1, place[:, :, None].expand(B, K, J))
        history = self.history.gather(1, parents[:, :, None].expand_as(self.history))
        self.history = torch.cat([history[:, :, 1:], tokens[:, :, None]], dim=2)
        return Choice(tokens, parents, values.flatten(1).gather(1, place), best, end, end_scores)

    def _continuations(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> tuple[Tensor, ...]:
        """As Beam, with the next token of each phrase that a row does not contain as a further candidate: W in all."""
        B, K = scores.shape
        tokens, values, end = super()._continuations(logits, normalizer, scores, limits)
        progress = (self._begins() * (self.places - 1)).amax(3)  # [B, K, J]
        wanted = self.phrases[:, None].expand(B, K, -1, -1).gather(3, progress[:, :, :, None]).squeeze(3)
        wanted = wanted.masked_fill(self.held, PAD)  # PAD is never chosen
        columns = wanted.flatten(0, 1)
        gains = logits.gather(1, columns.clamp(max=logits.size(1) - 1)) - normalizer
        gains = without_nan(gains.masked_fill(columns >= logits.size(1), NEVER)).view(wanted.shape)
        for mask in (limits.late(), None if (forced := limits.forced()) is None else forced[0]):
            if mask is not None:
                gains = gains.masked_fill(mask[:, :, None], NEVER)
        for j in range(wanted.size(2)):  # each token once
            same = torch.cat([tokens, wanted[:, :, :j]], dim=2) == wanted[:, :, j : j + 1]
            gains[:, :, j] = gains[:, :, j].masked_fill(same.any(2), NEVER)
        return torch.cat([tokens, wanted], dim=2), torch.cat([values, gains], dim=2), end

    def _covered(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Coverage after each candidate.

        Args:
            tokens: [B, K, W] candidates.

        Returns:
            How many tokens of each phrase are covered, and whether the phrase is contained; both [B, K, W, J].
        """
        begins = self._begins()  # [B, K, J, n]: the row ends with the first 0 ... n-1 tokens
        fits = begins[:, :, None] & (tokens[:, :, :, None, None] == self.phrases[:, None, None])
        progress = (fits * self.places).amax(4)  # of the first 1 ... n tokens, the most
        lengths = self.lengths[:, None, None]
        held = self.held[:, :, None] | (progress == lengths)
        return torch.where(held, lengths, progress), held

    def _begins(self) -> Tensor:
        """Bool [B, K, J, n]: whether a row ends with the first 0 ... n-1 tokens of a phrase."""
        n = self.phrases.size(2)
        same = [torch.ones_like(self.held)]
        for m in range(1, n):
            last = self.history[:, :, None, n - m :]  # [B, K, 1, m]
            same.append((last == self.phrases[:, None, :, :m]).all(3))
        return torch.stack(same, dim=3)

    @staticmethod
    def _turns(scores: Tensor, banks: Tensor, most: Tensor) -> Tensor:
        """The turn of each candidate, int64 [B, C]: ordered by its rank in its bank, then by its bank, the one that
        covers most first. The largest integer for a candidate of score -inf.

        Args:
            scores: [B, C].
            banks: [B, C] int64, tokens covered.
            most: [B, 1] int64, the tokens of all phrases.
        """
        order = scores.argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, banks.gather(1, order).argsort(dim=1, stable=True))
        sorted_banks = banks.gather(1, order)
        rank = torch.arange(scores.size(1), device=scores.device) - torch.searchsorted(sorted_banks, sorted_banks)
        turns = rank * (most + 1) + most - sorted_banks
        turns = torch.zeros_like(turns).scatter(1, order, turns)
        return turns.masked_fill(scores == NEVER, torch.iinfo(torch.int64).max)


def lacking(ids: Ids, phrases: list[Ids]) -> int:
    """How many of the phrases a hypothesis does not contain."""
    return sum(all(ids[i : i + len(p)] != list(p) for i in range(len(ids) - len(p) + 1)) for p in phrases)
