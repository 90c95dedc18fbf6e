"""GTrans, the decoder's side: groups of decoder layers are fused, and their weighted sum predicts the target.

Paper: Yang et al., "GTrans: Grouping and Fusing Transformer Layers for Neural Machine Translation", IEEE/ACM TASLP
2022, https://arxiv.org/abs/2207.14467.

N decoder layers are divided into G groups of equal size, as nearly as possible. The state of a group is the state of
its last layer, [B, T, D], normalised by a layer norm of the group. The output layer reads the weighted sum of the group
states. The weights are a softmax of learned numbers, equal initially. The compiled step supports such sums, so that
decoding is as fast as without them.

Use: `model.decoder=groups model.decoder.groups=3`

Left out: see `model.bridge=groups`, the encoder's side. Uncertain: as there.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.bridges.groups import last_layers
from s2s.models.contract import Shared
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.stack import DecoderConfig
from s2s.nn.embedding import Embedding
from s2s.nn.norms import norm_of


@dataclasses.dataclass
class GroupsDecoderConfig(DecoderConfig):
    """Options of the decoder."""

    type: str = option("groups", "component")
    groups: int = option(2, "groups of decoder layers", at_least=2, at_most=1000)


class GroupsDecoder(TransformerDecoder):
    """A decoder whose output reads a weighted sum of the states of its groups.

    Args:
        config, shared, embedding, memory_width, heads: As in TransformerDecoder.

    Raises:
        UserError: auxiliary heads, or more groups than layers.
    """

    Config = GroupsDecoderConfig
    steps_for = TransformerDecoder  # whose step adds up `shares`
    heads = ()

    def __init__(self, config: GroupsDecoderConfig, shared: Shared, embedding: Embedding, memory_width: int | None,
                 heads: list[int] = ()):  # fmt: skip
        if heads:
            raise UserError(
                f"model.auxiliary_heads={list(heads)}: model.decoder=groups fuses its layers; leave one out"
            )
        super().__init__(config, shared, embedding, memory_width)
        *lower, _ = last_layers(config.layers, config.groups, "model.decoder.groups")
        self.head_norms = nn.ModuleDict({str(number): norm_of(shared.norm_type, config.width) for number in lower})
        self.weights = nn.Parameter(torch.zeros(config.groups))

    @property
    def shares(self) -> dict[int, Tensor]:
        """Weight of each group below the top, by the number of its last layer; the top group has the rest of 1."""
        return dict(zip(map(int, self.head_norms), self.weights.softmax(0), strict=False))

    def decode(self, *args) -> tuple[Tensor, dict[int, Tensor]]:
        """As in TransformerDecoder."""
        return super().decode(*args)[0], {}
