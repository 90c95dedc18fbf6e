"""Frames of features as states, fewer of them: convolutions of stride 2."""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.batch import Source
from s2s.data.spec import FeatureSource
from s2s.models.contract import Shared, States
from s2s.nn.convolution import Subsampling, halved
from s2s.nn.dropout import dropout
from s2s.nn.positions import PositionEmbedding


@dataclasses.dataclass
class SubsamplingConfig:
    """Options of the front-end."""

    type: str = option("subsampling", "component")
    factor: int = option(4, "frames that make a position", (2, 4, 8))
    channels: int = option(32, "channels of the convolutions", at_least=1, at_most=4096)


class SubsamplingFrontend(nn.Module):
    """Convolutions over frames and features, scaled as embeddings are, with positions and dropout.

    Args:
        config: The options.
        source: The features of a frame.
        width: D.
        shared: Options that all parts of the model share.
    """

    Config = SubsamplingConfig
    reads = FeatureSource
    tokens = None  # no matrix of symbols

    def __init__(self, config: SubsamplingConfig, source: FeatureSource, width: int, shared: Shared):
        super().__init__()
        self.features, self.dropout = source.width, shared.embedding_dropout
        self.scale = width**0.5  # else the layers drown the states at first
        self.subsampling = Subsampling(source.width, width, config.factor, config.channels)
        self.positions = PositionEmbedding(shared.positions, width, shared.max_positions)

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
