"""The default output: one matrix, which may be shared with the embedding (Press and Wolf 2017)."""

import dataclasses

from torch import nn

from s2s.config.schema import option


@dataclasses.dataclass
class LinearConfig:
    """Options of the output."""

    type: str = option("linear", "component")
    bias: bool = option(False, "add a learned number to the logit of each symbol")


def linear(config: LinearConfig, width: int, size: int) -> nn.Linear:
    """A linear map of states [..., D] to logits [..., V].

    Args:
        config: The options.
        width: D.
        size: V.
    """
    return nn.Linear(width, size, bias=config.bias)


linear.Config = LinearConfig
