"""The default target embedding: a matrix with one row for each token."""

import dataclasses

from torch import nn

from s2s.config.schema import option


@dataclasses.dataclass
class TableConfig:
    """Options of the target embedding."""

    type: str = option("table", "component")
    dropout: float | None = option(
        None, "dropout of the decoder's embedded input; null: the same as model.embedding_dropout", at_least=0, below=1
    )


def table(config: TableConfig, size: int, width: int) -> nn.Embedding:
    """The matrix [V, D], which the front-end and the output may share. Embedding scales its rows by sqrt(D).

    Args:
        config: The options.
        size: V.
        width: D.
    """
    return nn.Embedding(size, width)


table.Config, table.ties = TableConfig, True
