"""Whisper's front-end: two convolutions over frames, of which the second halves their number.

Paper: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022,
https://arxiv.org/abs/2212.04356.

Features [B, S, F] go through two convolutions of kernel 3 with GELU after each; the second has stride 2: [B, S/2, D].
Each position has a learned embedding, initially sinusoidal, with a table of its own: `model.positions` and
`model.max_positions` are those of the decoder. Padding is zero before each convolution, so that it has no effect. A
store with features.kind=whisper has Whisper's features.

Use: model=transformer model.frontend=whisper

Left out: nothing. In Whisper, the positions of the encoder are not trained; here `train.freeze` decides.
"""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from s2s.config.schema import option
from s2s.data.batch import Source
from s2s.data.spec import FeatureSource
from s2s.models.contract import Shared, States
from s2s.nn.dropout import dropout
from s2s.nn.positions import sinusoidal


@dataclasses.dataclass
class WhisperFrontendConfig:
    """Options of the front-end."""

    type: str = option("whisper", "component")
    positions: int = option(1500, "longest source in states, two frames each", at_least=1, at_most=1_048_576)


class WhisperFrontend(nn.Module):
    """Two convolutions and learned positions.

    Args:
        config: The options.
        source: Gives the number of features of a frame.
        width: D.
        shared: Options that all parts of the model share.

    Attributes:
        max_length: Most states of a source, and 1 for the EOS that a text would have.
    """

    Config = WhisperFrontendConfig
    reads = FeatureSource
    tokens = None  # no matrix of symbols
    stride = 2

    def __init__(self, config: WhisperFrontendConfig, source: FeatureSource, width: int, shared: Shared):
        super().__init__()
        self.max_length, self.dropout = config.positions + 1, shared.embedding_dropout
        self.first = nn.Conv1d(source.width, width, 3, padding=1)
        self.second = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.positions = nn.Parameter(torch.empty(config.positions, width))

    def first_weights(self) -> None:
        """The positions are sinusoidal."""
        with torch.no_grad():
            self.positions.copy_(sinusoidal(torch.arange(len(self.positions)), self.positions.size(1)))

    def most(self, length: int) -> int:
        """Number of states of a source with `length` frames."""
        return (length + 1) // 2

    def forward(self, source: Source) -> States:
        """source: features [B, S, F]. Returns States [B, ceil(S / 2), D]."""
        real = torch.arange(source.values.size(1), device=source.values.device) < source.lengths[:, None]
        x = (source.values * real[:, :, None]).transpose(1, 2)
        x = gelu(self.second(gelu(self.first(x)) * real[:, None])).transpose(1, 2)
        x = x + self.positions[: x.size(1)].to(x.dtype)
        return States(dropout(x, self.dropout, self.training), (source.lengths + 1) // 2)

    def flops(self, lengths: Tensor) -> int:
        """Floating-point operations of the convolutions; lengths: of the sources in frames, [B] int64."""
        frames, states = int(lengths.sum()), int(((lengths + 1) // 2).sum())
        return 2 * (frames * self.first.weight.numel() + states * self.second.weight.numel())
