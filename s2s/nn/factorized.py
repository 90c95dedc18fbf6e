"""Deep factorized embeddings of tokens: see `s2s/models/frontends/define.py`.

Shapes: D width, n width of an embedded token, V vocabulary.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.nn.group_linear import GroupLinear


@dataclasses.dataclass
class Factors:
    """Options of deep factorized embeddings, of a front-end and of what the decoder reads."""

    narrow: int = option(64, "n, width of an embedded token; a multiple of groups", at_least=1, at_most=65_536)
    wide: int = option(256, "width of the last group-linear layer", at_least=1, at_most=65_536)
    layers: int = option(2, "group-linear layers", at_least=1, at_most=100)
    groups: int = option(4, "groups of the first layer; half as many in each layer after it", at_least=1, at_most=1024)


class FactorizedEmbedding(nn.Module):
    """A narrow embedding table, followed by group-linear layers of growing width.

    Args:
        factors: The options.
        size: V.
        width: D.
        key: The option that holds these options, for errors.

    Attributes:
        embedding_dim: D.

    Raises:
        UserError: widths that groups do not divide.
    """

    def __init__(self, factors: Factors, size: int, width: int, key: str):
        super().__init__()
        narrow, groups, layers = factors.narrow, factors.groups, factors.layers
        if narrow % groups:
            raise UserError(f"{key}.narrow={narrow} is not a multiple of {key}.groups={groups}")
        self.embedding_dim, self.scale = width, narrow**0.5
        self.tokens = nn.Embedding(size, narrow)
        self.layers, inner = nn.ModuleList(), 0
        for number in range(1, layers + 1):
            grown = narrow + (factors.wide - narrow) * number // layers
            grown = max(groups, grown // groups * groups)  # every later number of groups divides it
            self.layers.append(GroupLinear(narrow + inner, grown, max(1, groups >> (number - 1))))
            inner = grown
        self.reduction = nn.Linear(inner, width)

    def forward(self, ids: Tensor) -> Tensor:
        """[...] int64 -> [..., D]"""
        first = self.tokens(ids) * self.scale
        x = functional.gelu(self.layers[0](first))
        for layer in self.layers[1:]:
            groups = len(layer.weight)
            parts = [y.unflatten(-1, (groups, -1)) for y in (first, x)]
            x = functional.gelu(layer(torch.cat(parts, dim=-1).flatten(-2)))
        return self.reduction(x)
