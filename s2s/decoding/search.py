"""The step loop: every row of a batch advances by one token, and finished sentences leave.

Beam search (greedy is beam_size=1) and sampling are choices around this one loop. It holds no Python loop over
rows; what happened is kept as back-pointers and read once, at the end.

When a sentence is done (`decode.stopping`):

- `first_finished`: beam_size hypotheses have finished, the first ones to do so (fairseq's rule).
- `best_possible`: the n_best finished hypotheses of the highest scores cannot be beaten by any live one. A live one's
  log-probability c <= 0 can only fall, so its score is at most c / d with d the largest divisor of the length
  normalisation among the lengths that it can still reach. The result is that of `exhaustive`.
- `exhaustive`: every live hypothesis has reached the maximum length.

In all of them a sentence is done when no hypothesis is live, and EOS is forced at the maximum length.

Shapes: B sentences still active, B0 sentences of the batch, K rows a sentence, R = B*K rows, V vocabulary, n n_best.
"""

import numpy as np
import torch
from torch import Tensor

from s2s.data.batch import Source
from s2s.decoding.choice import NEVER, Beam, Choice, Sampling
from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import Hypothesis
from s2s.decoding.limits import Limits, divisor
from s2s.decoding.scorers import EnsembleScorer, ModelScorer
from s2s.errors import Failure
from s2s.text.vocabulary import BOS

# Steps between two looks at which sentences are done: each look makes the host wait for the device.
POLL_STEPS = {"cpu": 1, "cuda": 8}
# Finished sentences leave when they are at least this share of the active ones, because leaving copies the others.
RELEASE_SHARE = 0.1


class Finished:
    """The finished hypotheses of the active sentences, at most K each, and of those that have left.

    Attributes:
        scores: [B, K] normalised, -inf where there is none.
        ends: [B, K] int64, step * K + row: where the hypothesis took its EOS.
        end_values: [B, K] log-probability of that EOS.
    """

    def __init__(self, config: DecodeConfig, limits: Limits, scores: Tensor):
        self.config = config
        self.first = config.search == "sample" or config.stopping == "first_finished"
        self.scores, self.end_values = torch.full_like(scores, NEVER), torch.zeros_like(scores)
        self.ends = torch.zeros_like(scores, dtype=torch.int64)
        self.rows = torch.arange(scores.size(1), device=scores.device)
        self.most = divisor(config, limits.longest.to(scores.dtype) + 1)  # [B]
        self.left: list[tuple[Tensor, ...]] = []

    def add(self, step: int, choice: Choice) -> None:
        """Take in what ended in this step: where the K places are not enough the first ones stay (`first_finished`),
        or the best ones."""
        K = self.scores.size(1)
        new = choice.end_scores / divisor(self.config, step + 1)
        old = self.scores
        if self.first:
            old = old.masked_fill(old > NEVER, float("inf"))
        place = torch.cat([old, new], dim=1).topk(K, dim=1).indices
        ends = (step * K + self.rows).expand_as(self.ends)
        self.scores = torch.cat([self.scores, new], dim=1).gather(1, place)
        self.ends = torch.cat([self.ends, ends], dim=1).gather(1, place)
        self.end_values = torch.cat([self.end_values, choice.end_log_probabilities], dim=1).gather(1, place)

    def done(self, step: int, live: Tensor) -> Tensor:
        """Bool [B], which sentences need no further step after this one; live: [B, K] scores of the live rows."""
        best = live.amax(dim=1)
        over = best == NEVER
        if self.first:
            return over | (self.scores[:, -1] > NEVER)
        if self.config.stopping == "best_possible":
            bound = best / self.most.clamp(min=divisor(self.config, step + 2))
            return over | (bound <= self.scores[:, self.config.n_best - 1])
        return over

    def release(self, keep: Tensor, active: Tensor) -> None:
        """Keep these sentences, set the others aside; active: [B], number of each within the batch."""
        self.left.append((active, self.scores, self.ends, self.end_values))  # those kept come again, later
        self.scores, self.ends, self.end_values = self.scores[keep], self.ends[keep], self.end_values[keep]
        self.most = self.most[keep]

    def collect(self, active: Tensor) -> tuple[np.ndarray, ...]:
        """Scores, ends and EOS log-probabilities of the whole batch, each [B0, n]: the best first, or samples in the
        order of their numbers."""
        self.left.append((active, self.scores, self.ends, self.end_values))
        _, *whole = (torch.empty_like(tensor) for tensor in self.left[0])
        for numbers, *parts in self.left:
            for to, part in zip(whole, parts, strict=True):
                to[numbers] = part
        scores, ends, end_values = whole
        key = -(ends % scores.size(1)) if self.config.search == "sample" else scores
        order = key.sort(dim=1, descending=True, stable=True).indices[:, : self.config.n_best]
        return tuple(tensor.gather(1, order).cpu().numpy() for tensor in (scores, ends, end_values))


class Trellis:
    """Back-pointers: for each step the tokens, the parents and the log-probabilities of all active rows."""

    def __init__(self, sentences: int):
        self.steps: list[tuple[Tensor, Tensor, Tensor]] = []
        self.epochs = [(0, np.arange(sentences))]  # from this step on, the place [B0] of each sentence; -1: it left

    def add(self, choice: Choice, rows: Tensor) -> None:
        """Remember a step; rows: [K], 0 ... K - 1."""
        parents = rows.expand_as(choice.tokens) if choice.parents is None else choice.parents
        self.steps.append((choice.tokens, parents, choice.log_probabilities))

    def release(self, active: np.ndarray) -> None:
        """From the next step on only these sentences (numbers within the batch) are active."""
        places = np.full(len(self.epochs[0][1]), -1)
        places[active] = np.arange(len(active))
        self.epochs.append((len(self.steps), places))

    def paths(self, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Follow the back-pointers from `ends` [B0, n] (step * K + row).

        Returns:
            Token ids and their log-probabilities, each [B0, n, T], and lengths [B0, n].
        """
        tokens, parents, values = (
            torch.cat([step[i].flatten() for step in self.steps]).cpu().numpy() for i in range(3)
        )
        K = self.steps[0][0].size(1)
        offsets = np.cumsum([0, *(step[0].numel() for step in self.steps)])
        lengths, row = np.divmod(ends, K)
        T = int(lengths.max(initial=0))
        ids, log_probabilities = np.zeros((*ends.shape, T), np.int64), np.zeros((*ends.shape, T), values.dtype)
        epoch = len(self.epochs) - 1
        for step in reversed(range(T)):
            while self.epochs[epoch][0] > step:
                epoch -= 1
            places = self.epochs[epoch][1][:, None]
            live = lengths > step
            at = np.where(live, offsets[step] + places * K + row, 0)
            ids[:, :, step], log_probabilities[:, :, step] = tokens[at], values[at]
            row = np.where(live, parents[at], row)
        return ids, log_probabilities, lengths


@torch.inference_mode()
def search(
    scorer: ModelScorer | EnsembleScorer,
    sources: tuple[Source, ...],
    limits: Limits,
    config: DecodeConfig,
    choose: Beam | Sampling,
) -> list[list[Hypothesis]]:
    """Decode one batch.

    Args:
        scorer: Rates the next token.
        sources: The batch, on the model's device.
        limits: Lengths and prefixes of its sentences.
        config: Decode options.
        choose: How a step goes on.

    Returns:
        For each sentence up to n_best hypotheses (fewer only if fewer exist), the best first; samples by number.

    Raises:
        Failure: a sentence without any hypothesis of finite score: the model's output is not finite.
    """
    K, B0 = config.rows, len(limits.longest)
    device = limits.longest.device
    scorer.start(sources, K, limits.steps)
    active = torch.arange(B0, device=device)  # [B], number of each active sentence within the batch
    rows = torch.arange(K, device=device)
    tokens = torch.full((B0 * K,), BOS, device=device)
    trellis, longest = Trellis(B0), limits.longest.cpu().numpy()
    scores = finished = None
    for step in range(limits.steps):
        logits, normalizer = scorer.step(tokens)
        if scores is None:
            scores = choose.first_scores(logits.new_zeros(B0, K))
            finished = Finished(config, limits, scores)
        choice = choose(step, logits, normalizer, scores, limits)
        trellis.add(choice, rows)
        finished.add(step, choice)
        tokens, parents, scores = choice.tokens, choice.parents, choice.scores
        if (step + 1) % POLL_STEPS[device.type] == 0:
            done = finished.done(step, scores)
            count = int(done.sum())
            if count == len(done):
                break
            if count >= RELEASE_SHARE * len(done):
                keep = (~done).nonzero().squeeze(1)
                scorer.release(keep)
                finished.release(keep, active)
                choose.release(keep)
                limits.release(keep)
                active, tokens, scores = active[keep], tokens[keep], scores[keep]
                parents = None if parents is None else parents[keep]
                trellis.release(active.cpu().numpy())
        tokens = tokens.flatten()
        if parents is not None:
            first = torch.arange(0, len(tokens), K, device=device)[:, None]
            scorer.reorder((first + parents).flatten())
    return _hypotheses(*finished.collect(active), trellis, longest)


def _hypotheses(
    scores: np.ndarray, ends: np.ndarray, end_values: np.ndarray, trellis: Trellis, longest: np.ndarray
) -> list[list[Hypothesis]]:
    """Arrays [B0, n] as hypotheses."""
    ids, values, lengths = trellis.paths(ends)
    if not np.isfinite(scores[:, 0]).all():
        raise Failure("decoding found no hypothesis of finite probability: the model's output is not finite")
    hypotheses = []
    for b, row in enumerate(scores):
        n_best = []
        for n in np.flatnonzero(np.isfinite(row)):
            length = lengths[b, n]
            each = [*values[b, n, :length].tolist(), float(end_values[b, n])]
            path = ids[b, n, :length].tolist()
            n_best.append(Hypothesis(path, float(row[n]), float(sum(each)), each, bool(length >= longest[b])))
        hypotheses.append(n_best)
    return hypotheses
