"""An output that is not a matrix: a mixture of softmaxes (Yang et al. 2018)."""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option


@dataclasses.dataclass
class MixtureOfSoftmaxesConfig:
    """Options of the output."""

    type: str = option("softmaxes", "component")
    count: int = option(2, "softmaxes that are mixed", at_least=1, at_most=100)


class MixtureOfSoftmaxes(nn.Module):
    """States [..., D] to log-probabilities [..., V]: log of the sum over k of weight_k * softmax_k."""

    Config = MixtureOfSoftmaxesConfig

    def __init__(self, config: MixtureOfSoftmaxesConfig, width: int, size: int):
        super().__init__()
        self.count = config.count
        self.weights, self.states = nn.Linear(width, config.count), nn.Linear(width, config.count * width)
        self.symbols = nn.Linear(width, size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """As above."""
        several = torch.tanh(self.states(states)).unflatten(-1, (self.count, -1))
        logs = self.symbols(several).log_softmax(-1) + self.weights(states).log_softmax(-1).unsqueeze(-1)
        return logs.logsumexp(-2)
