"""Adaptive softmax: rare symbols are rated through narrower matrices, by clusters.

Paper: Grave, Joulin, Cissé, Grangier and Jégou, "Efficient softmax approximation for GPUs", ICML 2017,
https://arxiv.org/abs/1609.04309.

Symbols are numbered from frequent to rare. A head rates the first c_1 of them and each cluster that follows, [.., c_1 +
clusters]; cluster i rates its own symbols from a state that a linear map has made 4^i times narrower. log p of a symbol
of a cluster is that of the cluster and that of the symbol in it: log-probabilities [.., V].

Use: tokenizer=words model.output=adaptive model.output.cutoffs=[1000,4000] model.tie_embeddings=none

Left out: what the paper gains in speed, since losses here read the log-probabilities of all symbols; what is gained is
size. Uncertain: nothing that is known; the module is PyTorch's.
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
    """[..., D] to log-probabilities [..., V].

    Args:
        config: Its options.
        width: D.
        size: V.

    Raises:
        UserError: cutoffs that do not ascend, or are not within the vocabulary.
    """

    Config = AdaptiveConfig
    by_id = True  # clusters are of neighbours in the vocabulary

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
