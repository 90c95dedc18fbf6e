"""Deep factorized embeddings of the tokens that the decoder reads: see `s2s/models/frontends/define.py`."""

import dataclasses

from s2s.config.schema import option
from s2s.models.embeddings.table import TableConfig
from s2s.nn.factorized import FactorizedEmbedding, Factors


@dataclasses.dataclass
class DefineEmbeddingConfig(Factors, TableConfig):
    """Options of the target embedding."""

    type: str = option("define", "component")


def define(config: DefineEmbeddingConfig, size: int, width: int) -> FactorizedEmbedding:
    """A factorized embedding: ids [...] to [..., D]. Raises UserError: widths that the groups do not divide."""
    return FactorizedEmbedding(config, size, width, "model.embedding")


define.Config = DefineEmbeddingConfig
