"""DeFINE: narrow embeddings, widened by group-linear layers.

Paper: Mehta, Koncel-Kedziorski, Rastegari and Hajishirzi, "DeFINE: Deep Factorized Input Token Embeddings for Neural
Sequence Modeling", ICLR 2020, https://arxiv.org/abs/1911.12385.

The embedding of a token has width n, much less than D. Group-linear layers widen it from layer to layer, and each layer
has half as many groups as the one before. Group g of a layer reads part g of the output of the previous layer and part
g of the embedding; it has its own linear map, with GELU. A last linear map gives width D: ids [B, S] to [B, S, D]. The
target embedding may be of this kind too, with a table of its own. The paper has an adaptive softmax at the output
(`model.output=adaptive`).

Use: model.frontend=define model.embedding=define model.output=adaptive

Left out: one table for both sides and the output; a cache of the final vectors, [V, D], in decoding. Uncertain: the
activation (GELU here; without one, all layers would be a single linear map).
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
    """Deep factorized embeddings: ids [B, S] to states [B, S, D].

    Args:
        config: The options.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Raises:
        UserError: widths that the groups do not divide.
    """

    Config = DefineConfig

    def __init__(self, config: DefineConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, None)
        self.embedding = FactorizedEmbedding(config, source.size, width, "model.frontend")

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        return self.embedding(ids), lengths
