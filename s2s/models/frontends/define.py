"""DeFINE: narrow embeddings that group-linear layers make wide.

Paper: Mehta, Koncel-Kedziorski, Rastegari and Hajishirzi, "DeFINE: Deep Factorized Input Token Embeddings for Neural
Sequence Modeling", ICLR 2020, https://arxiv.org/abs/1911.12385.

A token is embedded in n components, n much less than D. Group-linear layers, each with half as many groups as the one
before, make it wider from layer to layer: group g of a layer reads part g of the last layer's result and part g of the
embedding itself, and has a linear map of its own, with GELU. A linear map makes D of the last one: [B, S] ids to
[B, S, D]. What the decoder reads may be embedded so too, with a table of its own. The paper has an adaptive softmax at
the output (`model.output=adaptive`).

Use: model.frontend=define model.embedding=define model.output=adaptive

Left out: one table for both sides and the output; the finished vectors of a vocabulary, [V, D], are not kept when a
model decodes. Uncertain: the activation (GELU here; without any, all layers would be one linear map).
"""

import dataclasses

from torch import Tensor

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.models.contract import Shared
from s2s.models.frontends.text import TextFrontend
from s2s.nn.factorized import FactorizedEmbedding, Factors


@dataclasses.dataclass
class DefineConfig(Factors):
    """Options of the front-end."""

    type: str = option("define", "component")


class DefineFrontend(TextFrontend):
    """[B, S] ids to [B, S, D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: widths that groups do not divide.
    """

    Config = DefineConfig

    def __init__(self, config: DefineConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, None)
        self.embedding = FactorizedEmbedding(config, source.size, width, "model.frontend")

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        return self.embedding(ids), lengths
