"""The interface of searches by steps: a Chooser makes the Choice of each step.

Shapes: B sentences, K rows per sentence, R = B*K rows, V vocabulary. A dead row has score -inf. Probabilities are not
normalised again after masking: log-probabilities stay those of the model.
"""

from typing import NamedTuple

from torch import Tensor

from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits


class Choice(NamedTuple):
    """The result of a step; each tensor is [B, K].

    Attributes:
        tokens: int64, the next token of each new row.
        parents: int64, the row of the same sentence that each new row continues; None: each row continues itself.
        log_probabilities: Log-probabilities of the tokens.
        scores: Sum of the log-probabilities of each new row, descending in beam search; -inf for a dead row.
        end_log_probabilities: Log-probability of EOS after each OLD row.
        end_scores: Sum of the log-probabilities of each OLD row that ends with EOS in this step; -inf for the others.
        ended: False if it is known that no row ended with EOS and every sentence has a live row.
    """

    tokens: Tensor
    parents: Tensor | None
    log_probabilities: Tensor
    scores: Tensor
    end_log_probabilities: Tensor
    end_scores: Tensor
    ended: bool = True


class Chooser:
    """Chooses the next token of each row: the only part of the engine's loop in which searches differ.

    Attributes:
        groups: Number of equal groups of a sentence's rows; each group finishes by itself.
        first: Whether the first finished hypotheses are kept; otherwise the best ones.
        scored: Whether `end_scores` are log-probabilities, to be normalised by length; otherwise they rank hypotheses
            as they are.
        numbered: Whether hypotheses are returned in the order of their rows; otherwise the best first.
        skips: Whether dead rows need no computation; their logits may be any finite numbers. It counts only for the
            class that declares it in its own body, since a subclass may read more.
        fused: Whether the chooser computes the normaliser itself and leaves no NaN. It counts as `skips` does.
        clean: Whether the chooser leaves no NaN. It counts as `skips` does.
    """

    groups = 1
    first = False
    scored = True
    numbered = False
    skips = False
    fused = False
    clean = False

    def first_scores(self, scores: Tensor) -> Tensor:
        """Scores of the rows of new sentences, -inf for dead rows. scores: [B, K] zeros, which may be changed."""
        return scores

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """Choose the next tokens.

        Args:
            logits: [R, V], which may be changed. For several models, or with scorers, they are log-probabilities. If
                the output is as wide as the sources, V differs from step to step, and shorter sources have -inf.
            normalizer: [R, 1]; log-probabilities are logits - normalizer.
            scores: [B, K] scores of the rows so far.
            limits: Length limits and forced prefixes.
        """
        raise NotImplementedError

    def admit(self, slots: Tensor, numbers: list[int]) -> None:
        """Put sentences into these slots [n]; numbers: their numbers in the input."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones."""


def without_nan(scores: Tensor) -> Tensor:
    """Scores with -inf in place of NaN and inf, so that such a token is never chosen, and sums are not NaN."""
    return scores.nan_to_num(NEVER, NEVER, NEVER)


def pick_inside(logits: Tensor, normalizer: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens and their log-probabilities, both [B, K], for an output that may be narrower than the vocabulary.

    A token outside of the output is replaced by the last one, with -inf.
    """
    width = logits.size(1)
    inside = tokens.clamp(max=width - 1)
    return inside, pick(logits, normalizer, inside).masked_fill(tokens >= width, NEVER)


def pick(logits: Tensor, normalizer: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [B, K] of one token per row; tokens: [B, K] int64."""
    return (logits.gather(1, tokens.reshape(-1, 1)) - normalizer).view(tokens.shape)
