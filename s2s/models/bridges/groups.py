"""GTrans, the encoder's side: groups of encoder layers are fused, and the decoder attends to their sum.

Paper: Yang et al., "GTrans: Grouping and Fusing Transformer Layers for Neural Machine Translation", IEEE/ACM TASLP
2022, https://arxiv.org/abs/2207.14467.

N layers make G groups of one size, as nearly as N and G allow. The state of a group is that of its last layer, through
a layer norm of the group's own; all decoder layers attend to the sum over groups of a learned weight times this state,
[B, S, D]. The weights are a softmax, equal at first. The decoder's side, by which groups of decoder layers predict the
target, is `model.decoder=groups`; the paper has both.

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
    """The last layer, from 1, of each group. Raises UserError: more groups than layers; key: of their number."""
    if groups > layers:
        raise UserError(f"{key}={groups}: there are {layers} layers, so at most {layers} groups")
    return [-(-layers * number // groups) for number in range(1, groups + 1)]


class GroupsBridge(nn.Module):
    """A weighted sum of the groups' last layers, for all decoder layers.

    Args:
        config: Its options.
        width: D.
        encoder_layers: N.
        decoder_layers: How many there are.

    Attributes:
        needs, width: As of TopBridge.
    """

    Config = GroupsConfig

    def __init__(self, config: GroupsConfig, width: int, encoder_layers: int, decoder_layers: int):
        super().__init__()
        self.width = width
        self.needs = tuple(last_layers(encoder_layers, config.groups, "model.bridge.groups")[:-1])
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(config.groups))
        self.weights = nn.Parameter(torch.zeros(config.groups))

    def join(self, memories: list[Memory]) -> Memory:
        """As of TopBridge."""
        (memory,) = memories
        return memory

    def seen(self, memory: Memory, layers: int) -> list[Tensor]:
        """What each of so many decoder layers attends to, [B, S, D]."""
        normed = torch.stack([norm(x) for norm, x in zip(self.norms, memory.states, strict=True)], -1)
        return [normed @ self.weights.softmax(0)] * layers
