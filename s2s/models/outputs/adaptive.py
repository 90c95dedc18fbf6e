"""Adaptive softmax: clusters of rare symbols have narrower output matrices.

Paper: Grave, Joulin, Cissé, Grangier and Jégou, "Efficient softmax approximation for GPUs", ICML 2017,
https://arxiv.org/abs/1609.04309.

Symbols are numbered from frequent to rare. The head scores the first c_1 symbols and each of the following clusters,
[.., c_1 + clusters]. Cluster i scores its own symbols from a state that a linear map has made 4^i times narrower. The
log-probability of a symbol in a cluster is the sum of that of the cluster and that of the symbol within it:
log-probabilities [.., V].

Use: tokenizer=words model.output=adaptive model.output.cutoffs=[1000,4000] model.tie_embeddings=none

Left out: the paper's gain in speed, because losses here read the log-probabilities of all symbols; the gain here is in
size. Uncertain: nothing; the module is PyTorch's.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError


@dataclasses.dataclass
class AdaptiveConfig:
    """Options of the output."""

    type: str = option("adaptive", "component")
    cutoffs: list[int] = option(
        [], "where each cluster begins; empty: at a fifth and at half of the vocabulary", at_least=1
    )
    factor: float = option(4.0, "how much narrower each cluster is than the one before", at_least=1, at_most=1024)


class AdaptiveOutput(nn.Module):
    """Adaptive softmax output: states [..., D] to log-probabilities [..., V].

    Args:
        config: The options.
        width: D.
        size: V.

    Raises:
        UserError: cutoffs that do not ascend, or are not within the vocabulary.
    """

    Config = AdaptiveConfig
    by_id = True  # a cluster is a range of ids

    def __init__(self, config: AdaptiveConfig, width: int, size: int):
        super().__init__()
        cutoffs = config.cutoffs or sorted({max(1, size // 5), max(1, size // 2)})
        if cutoffs != sorted(set(cutoffs)) or cutoffs[-1] >= size - 1:
            raise UserError(f"model.output.cutoffs={cutoffs}: must ascend, below {size - 1}")
        if width < config.factor ** len(cutoffs):
            raise UserError(f"model.output.factor={config.factor:g}: the last of {len(cutoffs)} clusters has no "
                            f"component left of model.decoder.width={width}")  # fmt: skip
        self.softmax = nn.AdaptiveLogSoftmaxWithLoss(width, size, cutoffs, config.factor)

    def forward(self, states: Tensor) -> Tensor:
        """States [..., D] to log-probabilities [..., V]."""
        return self.softmax.log_prob(states.flatten(0, -2)).unflatten(0, states.shape[:-1])
