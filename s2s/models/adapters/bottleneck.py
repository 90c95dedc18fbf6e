"""Bottleneck adapters: small networks that are trained between the blocks of a trained model.

Paper: Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, https://arxiv.org/abs/1902.00751.

The output y [..., N] of a linear map becomes y + U f(V y + c) + d with V [width, N], U [N, width] and an activation f.
Only U, V, c and d are trained. U and d are 0 initially, so that training begins with the model as it is. By default the
maps are those at the end of attention, of cross-attention and of feed-forward blocks, before the residual connection is
added. These adapters are no linear maps, so nothing can merge them: a model that has them decodes without the compiled
step, and other toolkits' formats refuse it.

Use: model.adapter=bottleneck model.adapter.width=64 train.init.checkpoint=RUN

Left out: training the norms beside, unless `model.adapter.trained=[*norm*]` says so.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.adapting import AdapterConfig
from s2s.nn.adapted import AdaptedLinear
from s2s.nn.feedforward import FUNCTIONS


@dataclasses.dataclass
class BottleneckConfig(AdapterConfig):
    """Options of bottleneck adapters."""

    type: str = option("bottleneck", "component")
    parts: list[str] = option(
        ["*.layers.*.output", "*.layers.*.outer"], "linear maps that have one: encoder, decoder, or patterns of names"
    )
    width: int = option(64, "width of an adapter's inner states", at_least=1, at_most=65_536)
    activation: str = option("relu", "activation function of an adapter", tuple(FUNCTIONS))


class Bottleneck(nn.Module):
    """y + U f(V y + c) + d.

    Args:
        size: N.
        width: Width of the inner states.
        activation: One of FUNCTIONS.
    """

    def __init__(self, size: int, width: int, activation: str):
        super().__init__()
        self.activation, self.down, self.up = activation, nn.Linear(size, width), nn.Linear(width, size)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, y: Tensor) -> Tensor:
        """[..., N] -> [..., N]"""
        return y + self.up(FUNCTIONS[self.activation](self.down(y)))


class BottleneckLinear(AdaptedLinear):
    """A linear map with a bottleneck adapter after it.

    Args:
        config: The options.
        linear: The map.
    """

    Config = BottleneckConfig

    def __init__(self, config: BottleneckConfig, linear: nn.Linear):
        super().__init__(linear)
        self.adapter = Bottleneck(self.out_features, config.width, config.activation)

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]"""
        return self.adapter(super().forward(x))

    def plain(self) -> nn.Module:
        """As of AdaptedLinear."""
        return Adapted(self.base(), self.adapter)


class Adapted(nn.Module):
    """A linear map and its adapter, one after the other."""

    def __init__(self, linear: nn.Linear, adapter: nn.Module):
        super().__init__()
        self.linear, self.adapter = linear, adapter

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]"""
        return self.adapter(self.linear(x))
