"""Frames of features as states, fewer of them: convolutions of stride 2."""

from torch import Tensor, nn

from s2s.data.batch import Source
from s2s.models.contract import States
from s2s.nn.convolution import Subsampling, halved
from s2s.nn.dropout import dropout
from s2s.nn.positions import PositionEmbedding


class SubsamplingFrontend(nn.Module):
    """Convolutions over frames and features, scaled as embeddings are, with positions and dropout.

    Args:
        features: F, features of a frame.
        width: D.
        factor: Frames that make a position: 2, 4 or 8.
        channels: Of the convolutions.
        positions: `sinusoidal` or `rotary`.
        dropout: Probability of dropping a component of a state.
    """

    def __init__(self, features: int, width: int, factor: int, channels: int, positions: str, dropout: float):
        super().__init__()
        self.features, self.dropout = features, dropout
        self.scale = width**0.5  # else the layers drown the states at first
        self.subsampling = Subsampling(features, width, factor, channels)
        self.positions = PositionEmbedding(positions, width, 0)

    def most(self, length: int) -> int:
        """States of a source of so many frames."""
        return self.subsampling.lengths(length)

    def forward(self, source: Source) -> States:
        """source: features [B, S, F]. Returns States [B, S', D]."""
        x, lengths = self.subsampling(source.values, source.lengths)
        return States(dropout(self.positions(x * self.scale), self.dropout, self.training), lengths)

    def flops(self, lengths: Tensor) -> int:
        """Operations of matrix products and convolutions over sources of these lengths in frames, [B] int64."""
        total, frames, bands = 0, lengths, self.features
        for convolution in self.subsampling.convolutions:
            frames, bands = halved(frames), halved(bands)
            total += int(frames.sum()) * bands * convolution.weight.numel()
        return 2 * (total + int(frames.sum()) * self.subsampling.output.weight.numel())
