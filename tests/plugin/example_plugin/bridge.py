"""A bridge by which each decoder layer sees a mixture of its own of all encoder layers."""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.contract import Memory


@dataclasses.dataclass
class MixtureConfig:
    """Options of the bridge."""

    type: str = option("mixture", "component")
    top: float = option(1.0, "logit of the top layer at first; those of the others are 0")


class MixtureBridge(nn.Module):
    """Softmax weights over the encoder's layers, for each decoder layer."""

    Config = MixtureConfig

    def __init__(self, config: MixtureConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        self.width = width
        self.needs = tuple(range(1, encoder_layers))  # the top is always there
        self.logits = nn.Parameter(torch.zeros(decoder_layers, encoder_layers))
        with torch.no_grad():
            self.logits[:, -1] = config.top

    def join(self, memories: list[Memory]) -> Memory:
        """The memory of a sentence, of those of its sources."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """What each of so many decoder layers attends to, [B, S, D]."""
        states = torch.stack(memory.states)
        return [torch.einsum("e,ebsd->bsd", weights, states) for weights in self.logits.softmax(1)]
