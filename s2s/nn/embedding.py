"""Embedded tokens."""

from typing import cast

from torch import Tensor, nn

from s2s.nn.dropout import dropout
from s2s.nn.positions import PositionEmbedding


class Embedding(nn.Module):
    """Token embedding, scaled by sqrt(D), with positions and dropout.

    Args:
        tokens: The embedding matrix [V, D], which other parts may share; or a module that maps ids [...] to [..., D]
            and has an attribute `embedding_dim`, D. The output of such a module is not scaled.
        positions: Kind of PositionEmbedding.
        max_positions: The longest sequence, for learned positions only.
        dropout: Dropout probability of the embedded input.
        scaled: Whether the rows of a matrix are multiplied by sqrt(D).
        normed: Whether the sum with the positions is normalised, as in BART.
    """

    def __init__(self, tokens: nn.Module, positions: str, max_positions: int, dropout: float, scaled: bool = True,
                 normed: bool = False):  # fmt: skip
        super().__init__()
        width = cast(int, tokens.embedding_dim)
        self.tokens, self.dropout = tokens, dropout
        self.scale = width**0.5 if scaled and isinstance(tokens, nn.Embedding) else 1.0
        self.positions = PositionEmbedding(positions, width, max_positions)
        self.norm = nn.LayerNorm(width) if normed else None

    def forward(self, ids: Tensor, positions: Tensor | None = None, length: int | None = None) -> Tensor:
        """Embed tokens.

        Args:
            ids: [B, T] int64.
            positions: [B, T] int64; None: 0, 1 ... in every row.
            length: Greater than every position; None: T.

        Returns:
            [B, T, D]
        """
        x = self.positions(self.tokens(ids) * self.scale, positions, length)
        return dropout(x if self.norm is None else self.norm(x), self.dropout, self.training)
