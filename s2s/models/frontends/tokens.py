"""The default front-end: one embedding for each token."""

import dataclasses

from torch import nn

from s2s.config.schema import option
from s2s.data.batch import Source
from s2s.data.spec import TokenSource
from s2s.models.contract import Shared, States
from s2s.nn.embedding import Embedding


@dataclasses.dataclass
class TokensConfig:
    """Options of the front-end."""

    type: str = option("tokens", "component")


class TokenFrontend(nn.Module):
    """Embeds each token; the length does not change.

    Args:
        config: The options; there are none to choose.
        source: Gives the vocabulary size.
        width: D.
        shared: Options that all parts of the model share.

    Attributes:
        tokens: The embedding matrix, which the target side may share.
    """

    Config = TokensConfig
    reads = TokenSource
    segmented = True

    def __init__(self, config: TokensConfig, source: TokenSource, width: int, shared: Shared):
        super().__init__()
        tokens = nn.Embedding(source.size, width)
        self.embedding = Embedding(tokens, shared.positions, shared.max_positions, shared.embedding_dropout,
                                   shared.scale_embeddings, shared.embedding_norm)  # fmt: skip

    @property
    def tokens(self) -> nn.Embedding:
        return self.embedding.tokens

    def most(self, length: int) -> int:
        """Largest number of states of a source with `length` tokens."""
        return length

    def forward(self, source: Source) -> States:
        """source: ids [B, S]. Returns States [B, S, D]."""
        positions = source.packing and source.packing.positions
        return States(self.embedding(source.values, positions=positions), source.lengths, source.packing)

    def flops(self, lengths) -> int:
        """0, because there are no matrix products."""
        return 0
