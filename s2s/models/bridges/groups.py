"""GTrans, the encoder's side: groups of encoder layers are fused, and the decoder attends to their sum.

Paper: Yang et al., "GTrans: Grouping and Fusing Transformer Layers for Neural Machine Translation", IEEE/ACM TASLP
2022, https://arxiv.org/abs/2207.14467.

N encoder layers are divided into G groups of equal size, as nearly as possible. The state of a group is the state of
its last layer, normalised by a layer norm of the group. All decoder layers attend to the weighted sum of the group
states, [B, S, D]. The weights are a softmax of learned numbers, equal initially. The decoder's side, where groups of
decoder layers predict the target, is `model.decoder=groups`; the paper has both.

Use: `model.bridge=groups model.bridge.groups=3 model.decoder=groups model.decoder.groups=3`

Left out: the multilingual set-up. Uncertain: whether the paper's weights are a softmax, and whether a group's state is
that of its last layer or a mean of its layers.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Memory


@dataclasses.dataclass
class GroupsConfig:
    """Options of the bridge."""

    type: str = option("groups", "component")
    groups: int = option(2, "groups of encoder layers", at_least=2, at_most=1000)


def last_layers(layers: int, groups: int, key: str) -> list[int]:
    """The last layer of each group, from 1; key: the option of the number of groups, for errors. Raises UserError: more
    groups than layers."""
    if groups > layers:
        raise UserError(f"{key}={groups}: there are {layers} layers, so at most {layers} groups")
    return [-(-layers * number // groups) for number in range(1, groups + 1)]


class GroupsBridge(nn.Module):
    """A weighted sum of the states of the groups, for all decoder layers.

    Args:
        config: The options.
        width: D.
        encoder_layers: N.
        decoder_layers: Number of decoder layers with cross-attention.

    Attributes:
        needs, width: As in TopBridge.
    """

    Config = GroupsConfig

    def __init__(self, config: GroupsConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        self.width = width
        self.needs = tuple(last_layers(encoder_layers, config.groups, "model.bridge.groups")[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.groups))
        self.weights = nn.Parameter(torch.zeros(config.groups))

    def join(self, memories: list[Memory]) -> Memory:
        """As in TopBridge."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """The memory states of each decoder layer, [B, S, D]; layers: their number."""
        normed = torch.stack([norm(x) for norm, x in zip(self.norms, memory.states, strict=True)], -1)
        return [normed @ self.weights.softmax(0)] * layers
