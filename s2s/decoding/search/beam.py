"""Beam search (greedy search is K = 1), and its compiled form.

Shapes: B sentences, K rows per sentence, R = B*K rows, V vocabulary.
"""

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.search.choice import Choice, Chooser, pick_inside, without_nan
from s2s.native.library import call
from s2s.text.vocabulary import BOS, EOS, PAD, UNK


class Beam(Chooser):
    """Beam search: the K best continuations live on; finished hypotheses do not take their places.

    There are up to 2K candidates: the K best continuations by a token, and the K rows ended by EOS. An EOS counts only
    if it is among the K best of them: a hypothesis that leaves the beam is lost, finished or not (fairseq's rule).

    Attributes:
        choices: Minimum number of candidates of each row; there are at least K.
    """

    choices = 1
    skips = clean = True

    def __init__(self, config: DecodeConfig, device: torch.device | str):
        one = config.stopping == "worst_finished" and config.beam_size == 1
        self.config, self.first = config, config.stopping == "first_finished" or one
        forbidden = [PAD, BOS, EOS] if config.allow_unknown else [PAD, UNK, BOS, EOS]
        self.forbidden = torch.tensor(forbidden, device=device)  # EOS is handled separately

    def first_scores(self, scores: Tensor) -> Tensor:
        """Only the first row of a new sentence is live, since all rows are the same. scores: [B, K] zeros, changed."""
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
            end_scores.masked_fill(end_scores < worst, NEVER),
        )

    def _continuations(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> tuple[Tensor, ...]:
        """The candidates of each row.

        Returns:
            Tokens and their log-probabilities, both [B, K, C], -inf where there is no candidate (C is K or `choices`,
            at most V); and the log-probabilities of EOS, [B, K].
        """
        B, K = scores.shape
        end = (logits[:, EOS, None] - normalizer).view(B, K)
        early, late, forced = limits.early(), limits.late(), limits.forced()
        if forced is not None:
            forced_token, forced_value = pick_inside(logits, normalizer, forced[1].expand(B, K))
        logits.index_fill_(1, self.forbidden, NEVER)
        values, tokens = logits.topk(min(max(K, self.choices), logits.size(1)), dim=1)
        width = values.size(1)
        values, tokens = (values - normalizer).view(B, K, width), tokens.view(B, K, width)
        if early is not None:
            end = end.masked_fill(early, NEVER)
        if late is not None:
            values = values.masked_fill(late[:, :, None], NEVER)
        if forced is not None:
            mask = forced[0]
            values = values.masked_fill(mask[:, :, None], NEVER)
            values[:, :, 0] = torch.where(mask, forced_value, values[:, :, 0])
            tokens[:, :, 0] = torch.where(mask, forced_token, tokens[:, :, 0])
        return tokens, without_nan(values), without_nan(end)  # topk takes NaN for the largest value


class NativeBeam(Beam):
    """As Beam, compiled: one pass from logits to the choice, which also scales the log-probability of EOS."""

    skips = fused = clean = True

    def __call__(self, logits: Tensor, normalizer: None, scores: Tensor, limits: Limits) -> Choice:
        """logits: [R, V], unchanged; normalizer: computed by the kernel; scores: [B, K]."""
        B, K = scores.shape
        chosen, rated = torch.empty(2, B, K, dtype=torch.int64), torch.empty(4, B, K, dtype=torch.float32)
        ended = call("beam", scores, logits, limits.table, limits.prefix, chosen, rated,
                     self.config.allow_unknown, self.config.eos_scale)  # fmt: skip
        tokens, parents = chosen.unbind()
        return Choice(tokens, None if K == 1 else parents, *rated.unbind(), bool(ended))
