"""What one step of a search decides, and what decides it.

Shapes: B sentences, K rows a sentence, R = B*K rows, V vocabulary. A dead row has score -inf. Masked tokens are not
renormalised away: log-probabilities stay those of the model.
"""

from typing import NamedTuple

from torch import Tensor

from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits


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


class Chooser:
    """How a step goes on, the only part of the engine's loop in which searches differ.

    Attributes:
        groups: The rows of a sentence are so many groups of equal size, each of which ends by itself.
        first: Of the hypotheses that end, the first ones stay; else the best.
        scored: `end_scores` are log-probabilities, which length normalises; else they rank hypotheses as they are.
        numbered: A sentence's hypotheses come in the order of their rows; else the best first.
        skips: Nothing need be computed for dead rows, whose logits may be any finite numbers. Of a class whose own body
            says so; what inherits it may read more.
        fused: The choice finds the normaliser itself and leaves no NaN. Of a class whose own body says so, too.
    """

    groups = 1
    first = False
    scored = True
    numbered = False
    skips = False
    fused = False

    def first_scores(self, scores: Tensor) -> Tensor:
        """Scores of the rows of fresh sentences, -inf for those that do not count. scores: [B, K] zeros, to be
        changed."""
        return scores

    def __call__(self, logits: Tensor, normalizer: Tensor, scores: Tensor, limits: Limits) -> Choice:
        """Choose.

        Args:
            logits: [R, V], which may be changed; of several models or with scorers, log-probabilities. V may differ
                from step to step, of models whose output is as wide as a source: a sentence has -inf beyond its own.
            normalizer: [R, 1]: log-probabilities are the logits less this.
            scores: [B, K].
            limits: Of length, and forced prefixes.
        """
        raise NotImplementedError

    def admit(self, slots: Tensor, numbers: list[int]) -> None:
        """Sentences of these numbers in the input take these slots."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""


def real(scores: Tensor) -> Tensor:
    """Scores with minus infinity in place of NaN: what a model says nothing of is never chosen."""
    return scores.nan_to_num(NEVER, float("inf"), NEVER)


def wanted(logits: Tensor, normalizer: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B, K] that are asked for, and their log-probabilities: -inf for one beyond an output that is as wide as
    its source, in whose place comes the last one."""
    width = logits.size(1)
    there = tokens.clamp(max=width - 1)
    return there, pick(logits, normalizer, there).masked_fill(tokens >= width, NEVER)


def pick(logits: Tensor, normalizer: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [B, K] of one token a row; tokens: [B, K]."""
    return (logits.gather(1, tokens.reshape(-1, 1)) - normalizer).view(tokens.shape)
