"""The top of one encoder, for every decoder layer."""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.contract import Memory


@dataclasses.dataclass
class TopConfig:
    """Options of the bridge."""

    type: str = option("top", "component")


class TopBridge(nn.Module):
    """What the decoder of Vaswani et al. (2017) sees.

    Args:
        config: Nothing to choose.
        width: D of the encoder's states.
        encoder_layers, decoder_layers: How many there are.

    Attributes:
        needs: Encoder layers, from 1 and before the last, whose states it mixes; the top is always there.
        width: D of what the decoder sees.
    """

    Config = TopConfig
    needs: tuple[int, ...] = ()

    def __init__(self, config: TopConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        self.width = width

    def join(self, memories: list[Memory]) -> Memory:
        """The memory of a sentence, of those of its sources; kept while the sentence is decoded."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """What each of so many decoder layers attends to, [B, S, D]."""
        return [memory.top] * layers
