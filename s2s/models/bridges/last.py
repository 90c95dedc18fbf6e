"""HAT, the bridge: the decoder attends to the last encoder layers, side by side along time.

Paper: Wang et al., "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing", ACL 2020,
https://arxiv.org/abs/2005.14187.

The states of the last K encoder layers, [B, S, D] each, are K copies of each position: [B, S*K, D], the top layer
first. The mask of the decoder's attention is repeated. States below the top have the last norm of the encoder's kind,
without weights. With `model.decoder=super` each decoder layer sees as many of the copies as it has sampled; other
decoders see all.

Use: `model.bridge=last model.bridge.layers=2`

Left out: nothing. Uncertain: the paper does not say whether lower layers are normalised; its encoder is post-norm.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Memory


@dataclasses.dataclass
class LastConfig:
    """Options of the bridge."""

    type: str = option("last", "component")
    layers: int = option(2, "encoder layers that the decoder sees, the last ones", at_least=1, at_most=1000)


class LastBridge(nn.Module):
    """The last layers of the encoder, as copies of each position.

    Args:
        config, width, encoder_layers, decoder_layers: As in TopBridge.

    Attributes:
        needs, width: As in TopBridge.
        copies: K.

    Raises:
        UserError: more layers than the encoder has.
    """

    Config = LastConfig

    def __init__(self, config: LastConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        if config.layers > encoder_layers:
            raise UserError(f"model.bridge.layers={config.layers}: the encoder has {encoder_layers}")
        self.width, self.copies = width, config.layers
        self.needs = tuple(range(encoder_layers - config.layers + 1, encoder_layers))

    def join(self, memories: list[Memory]) -> Memory:
        """As in TopBridge."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """The memory states of each decoder layer, [B, S*K, D]; layers: their number."""
        lower = [layer_norm(x, x.shape[-1:]) for x in reversed(memory.states[:-1])]
        return [torch.stack([memory.top, *lower], 2).flatten(1, 2)] * layers
