"""No encoder: the memory is the output of the front-end, for a decoder that encodes the source by itself."""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.contract import Memory, Shared, States
from s2s.nn.attention import length_mask


@dataclasses.dataclass
class NoEncoderConfig:
    """Options of no encoder."""

    layers = 1  # not an option: a bridge reads the number of layers, and sees one state at each position

    type: str = option("none", "component")
    width: int = option(512, "model width D", at_least=1, at_most=65_536)


class NoEncoder(nn.Module):
    """Passes embedded tokens on as the memory.

    Args:
        config: The options.
        shared: Options that all parts of the model share.
    """

    Config = NoEncoderConfig
    exits = ()
    segmented = True

    def __init__(self, config: NoEncoderConfig, shared: Shared):
        super().__init__()
        self.config, self.width, self.layers = config, config.width, nn.ModuleList()
        self.needed: tuple[int, ...] = ()

    def forward(self, source: States) -> Memory:
        """As in TransformerEncoder."""
        keys = length_mask(source.lengths, source.values.size(1))
        return Memory([source.values], source.lengths, keys, source.packing and source.packing.segments)

    def flops(self, lengths: Tensor) -> int:
        """0, because there is nothing to compute."""
        return 0
