"""The default bridge: every decoder layer attends to the top states of the encoder."""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.contract import Memory


@dataclasses.dataclass
class TopConfig:
    """Options of the bridge."""

    type: str = option("top", "component")


class TopBridge(nn.Module):
    """The bridge of Vaswani et al. (2017).

    Args:
        config: The options; there are none to choose.
        width: D of the encoder's states.
        encoder_layers: Number of encoder layers.
        decoder_layers: Number of decoder layers with cross-attention.

    Attributes:
        needs: Encoder layers below the top, from 1, whose states the bridge needs.
        width: D of the memory that the decoder sees.
    """

    Config = TopConfig
    needs: tuple[int, ...] = ()

    def __init__(self, config: TopConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        self.width = width

    def join(self, memories: list[Memory]) -> Memory:
        """Join the memories of all sources into one memory, which is kept while a sentence is decoded."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """The memory states of each decoder layer, [B, S, D]; layers: their number."""
        return [memory.top] * layers
