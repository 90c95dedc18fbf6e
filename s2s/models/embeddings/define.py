"""Deep factorized embeddings of the tokens that the decoder reads: see `s2s/models/frontends/define.py`."""

import dataclasses

from s2s.config.schema import option
from s2s.models.embeddings.table import TableConfig
from s2s.nn.factorized import FactorizedEmbedding, Factors


@dataclasses.dataclass
class DefineEmbeddingConfig(Factors, TableConfig):
    """Options of the embedding of what the decoder reads."""

    type: str = option("define", "component")


def define(config: DefineEmbeddingConfig, size: int, width: int) -> FactorizedEmbedding:
    """The embedding [V, n] and what makes [..., D] of it. Raises UserError: widths that groups do not divide."""
    return FactorizedEmbedding(config, size, width, "model.embedding")


define.Config = DefineEmbeddingConfig
