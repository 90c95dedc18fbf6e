"""A row of a matrix for each token that the decoder reads."""

import dataclasses

from torch import nn

from s2s.config.schema import option


@dataclasses.dataclass
class TableConfig:
    """Options of the embedding of what the decoder reads."""

    type: str = option("table", "component")
    dropout: float | None = option(
        None, "dropout of the decoder's embedded input; null: the same as model.embedding_dropout", at_least=0, below=1
    )


def table(config: TableConfig, size: int, width: int) -> nn.Embedding:
    """The matrix [V, D], which front-end and output may share; what embeds scales it by sqrt(D).

    Args:
        config: Its options.
        size: V.
        width: D.
    """
    return nn.Embedding(size, width)


table.Config, table.ties = TableConfig, True
