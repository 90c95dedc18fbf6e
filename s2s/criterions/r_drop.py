"""R-Drop: two passes of a model with other dropout should predict the same."""

from torch import Tensor


class RDrop:
    """A `Term`: the mean of KL(p || q) and KL(q || p) of the two passes' distributions p, q at a position.

    With half of Liang et al.'s (2021) alpha for a weight, and the mean of both passes' cross-entropy, the loss is half
    of theirs: as large as the loss of one pass.

    Args:
        alpha: Theirs.
    """

    name = "r_drop"

    def __init__(self, alpha: float):
        self.weight = alpha / 2

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """As of Term; logits: [n, 2, V]."""
        log = logits.log_softmax(2)
        p = log.exp()
        # d of a pass is its log-probabilities less the other one's; KL of a pass to the other one is the mean of its d.
        d = log - log.flip(1)
        divergence = (p * d).sum(2, keepdim=True)
        gradient = p * d.sub_(divergence) + (p - p.flip(1))
        return divergence.sum() / 2, gradient.mul_(self.weight / 2)
