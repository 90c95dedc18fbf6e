"""Embeddingless model: one-hot vectors in place of embeddings, on both sides and at the output.

Paper: Shaham and Levy, "Neural Machine Translation without Embeddings", NAACL 2021, https://arxiv.org/abs/2008.09396.

The vector of symbol i, [D], is a one-hot vector times a learned number, which all symbols share and which is sqrt(D)
initially. Positions are added. The logit of symbol i is component i of the decoder state times another such number.
There is no embedding matrix, so D must be at least the vocabulary size, as with bytes. The input of the encoder has no
dropout. Dropout of the decoder input, `model.embedding.dropout`, drops whole tokens; this option exists for tables too.

Use: tokenizer=bytes model=embeddingless_tiny model.embedding.dropout=0.1

Left out: a last decoder layer without dropout; here it has the dropout of all layers. Uncertain: nothing that is known.
"""

import dataclasses

from torch import Tensor

from s2s.config.schema import option
from s2s.data.spec import TokenSource
from s2s.models.contract import Shared
from s2s.models.embeddings.one_hot import check_width
from s2s.models.frontends.text import TextFrontend
from s2s.nn.one_hot import OneHot


@dataclasses.dataclass
class OneHotFrontendConfig:
    """Options of the front-end."""

    type: str = option("one_hot", "component")


class OneHotFrontend(TextFrontend):
    """One-hot vectors: ids [B, S] to states [B, S, D].

    Args:
        config: The options; there are none to choose.
        source: Gives the vocabulary size.
        width: D.
        shared: Options of the model; there is no dropout.

    Raises:
        UserError: more symbols than D.
    """

    Config = OneHotFrontendConfig

    def __init__(self, config: OneHotFrontendConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__(width, shared, None)
        check_width("model.frontend", "model.encoder.width", source.size, width)
        self.vectors, self.dropout = OneHot(width), 0.0

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As in TextFrontend."""
        return self.vectors(ids), lengths
