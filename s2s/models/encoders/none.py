"""No encoder: the memory is what the front-end makes of a source, for a decoder that reads the source by itself."""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.contract import Memory, Shared, States
from s2s.nn.attention import length_mask


@dataclasses.dataclass
class NoEncoderConfig:
    """Options of no encoder."""

    layers = 1  # no option: a bridge sees one state of each position

    type: str = option("none", "component")
    width: int = option(512, "model width D", at_least=1, at_most=65_536)


class NoEncoder(nn.Module):
    """Embedded tokens as the memory.

    Args:
        config: The width.
        shared: Options of the model.
    """

    Config = NoEncoderConfig
    exits = ()
    segmented = True

    def __init__(self, config: NoEncoderConfig, shared: Shared):
        super().__init__()
        self.config, self.width, self.layers = config, config.width, nn.ModuleList()
        self.needed: tuple[int, ...] = ()

    def forward(self, source: States) -> Memory:
        """As of TransformerEncoder."""
        keys = length_mask(source.lengths, source.values.size(1))
        return Memory([source.values], source.lengths, keys, source.packing and source.packing.segments)

    def flops(self, lengths: Tensor) -> int:
        """None."""
        return 0
