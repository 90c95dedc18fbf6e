"""R-Drop: two passes of a model with other dropout should predict the same."""

from torch import Tensor


class RDrop:
    """weight / 4 * (KL(p || q) + KL(q || p)) of the two passes' distributions p, q at a position, in nats.

    With the mean of both passes' cross-entropy this is half the loss of Liang et al. (2021), with their weight: as
    large as the loss of one pass.

    Args:
        weight: Their alpha.
    """

    def __init__(self, weight: float):
        self.weight = weight

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """A term of the loss; logits: [n, 2, V]."""
        log = logits.log_softmax(2)
        p = log.exp()
        # d of a pass is its log-probabilities less the other one's; KL of a pass to the other one is the mean of its d.
        d = log - log.flip(1)
        divergence = (p * d).sum(2, keepdim=True)
        gradient = p * d.sub_(divergence) + (p - p.flip(1))
        return self.weight / 4 * divergence.sum(), gradient.mul_(self.weight / 4)
