"""Front-end for features: convolutions of stride 2 turn frames into fewer states."""

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
    """Convolutions over frames and features. The output is scaled like embeddings; positions and dropout follow.

    Args:
        config: The options.
        source: Gives the number of features of a frame.
        width: D.
        shared: Options that all parts of the model share.
    """

    Config = SubsamplingConfig
    reads = FeatureSource
    tokens = None  # no matrix of symbols

    def __init__(self, config: SubsamplingConfig, source: FeatureSource, width: int, shared: Shared):
        super().__init__()
        self.features, self.dropout = source.width, shared.embedding_dropout
        self.scale = width**0.5  # otherwise the output of the layers is initially much larger than the states
        self.subsampling = Subsampling(source.width, width, config.factor, config.channels)
        self.positions = PositionEmbedding(shared.positions, width, shared.max_positions)

    def most(self, length: int) -> int:
        """Number of states of a source with `length` frames."""
        return self.subsampling.lengths(length)

    def forward(self, source: Source) -> States:
        """source: features [B, S, F]. Returns States [B, S', D]."""
        x, lengths = self.subsampling(source.values, source.lengths)
        return States(dropout(self.positions(x * self.scale), self.dropout, self.training), lengths)

    def flops(self, lengths: Tensor) -> int:
        """Floating-point operations of matrix products and convolutions; lengths: of the sources in frames, [B]
        int64."""
        total, frames, bands = 0, lengths, self.features
        for convolution in self.subsampling.convolutions:
            frames, bands = halved(frames), halved(bands)
            total += int(frames.sum()) * bands * convolution.weight.numel()
        return 2 * (total + int(frames.sum()) * self.subsampling.output.weight.numel())
