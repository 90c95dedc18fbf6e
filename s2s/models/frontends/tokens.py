"""Token ids as states: an embedding of each."""

from torch import nn

from s2s.data.batch import Source
from s2s.models.contract import Shared, States
from s2s.nn.embedding import Embedding


class TokenFrontend(nn.Module):
    """Embedded tokens; no length changes.

    Args:
        tokens: The embedding matrix, perhaps shared.
        shared: Options of the model.
    """

    def __init__(self, tokens: nn.Embedding, shared: Shared):
        super().__init__()
        self.embedding = Embedding(tokens, shared.positions, shared.max_positions, shared.embedding_dropout)

    def most(self, length: int) -> int:
        """States of a source of so many tokens, at most."""
        return length

    def forward(self, source: Source) -> States:
        """source: ids [B, S]. Returns States [B, S, D]."""
        positions = source.packing and source.packing.positions
        return States(self.embedding(source.values, positions=positions), source.lengths, source.packing)

    def flops(self, lengths) -> int:
        """Operations of matrix products over sources of these lengths."""
        return 0
