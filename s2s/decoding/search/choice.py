"""What one step of a search decides.

Shapes: B sentences, K rows a sentence, R = B*K rows, V vocabulary. A dead row has score -inf. Masked tokens are not
renormalised away: log-probabilities stay those of the model.
"""

from typing import NamedTuple

from torch import Tensor

from s2s.decoding.hypothesis import NEVER


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


def real(scores: Tensor) -> Tensor:
    """Scores with minus infinity in place of NaN: what a model says nothing of is never chosen."""
    return scores.nan_to_num(NEVER, float("inf"), NEVER)


def pick(logits: Tensor, normalizer: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities [B, K] of one token a row; tokens: [B, K]."""
    return (logits.gather(1, tokens.reshape(-1, 1)) - normalizer).view(tokens.shape)
