"""The Transformer's encoder.

Shapes: B sentences, S source positions, P real tokens of all rows, D width.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.models.contract import Memory, Shared, States
from s2s.models.stack import StackConfig, check_heads
from s2s.nn.attention import length_mask, segment_mask
from s2s.nn.layers import Layer
from s2s.nn.unpad import RealTokens

UNPAD_FROM = 0.04  # share of padding from which a CPU is faster without it (tests/benchmarks/unpad.py)


@dataclasses.dataclass
class EncoderConfig(StackConfig):
    """Size of the encoder, and how it computes."""

    unpad: bool | None = option(
        None,
        f"compute on real tokens only; null: on a CPU, where over {UNPAD_FROM:.0%} of a batch is padding (no GPU was "
        "measured)",
    )


class TransformerEncoder(nn.Module):
    """Layers that see the whole source.

    Args:
        config: Its options.
        shared: Options of the model.

    Raises:
        UserError: heads that do not fit the width.
    """

    exits = ()

    def __init__(self, config: EncoderConfig, shared: Shared):
        super().__init__()
        check_heads("model.encoder", config, shared.positions)
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(Layer(**shared.layer(config)) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width) if shared.norm == "pre" else nn.Identity()

    def forward(self, source: States) -> Memory:
        """Returns the top states [B, S, D]; padded positions hold no meaning."""
        x, segments = source.values, source.packing and source.packing.segments
        keys = length_mask(source.lengths, x.size(1))
        mask = keys if segments is None else keys & segment_mask(segments, segments)
        real = RealTokens(keys[:, 0, 0]) if self._unpads(source) else None
        x = x if real is None else real.unpad(x)
        for layer in self.layers:
            x = layer(x, mask, real)
        x = self.norm(x)
        return Memory([x if real is None else real.pad(x)], source.lengths, keys, segments)

    def _unpads(self, source: States) -> bool:
        """Whether to compute on real tokens only."""
        if self.config.unpad is not None:
            return self.config.unpad
        positions = source.values.size(0) * source.values.size(1)
        return source.values.device.type == "cpu" and int(source.lengths.sum()) < (1 - UNPAD_FROM) * positions

    def flops(self, lengths: Tensor) -> int:
        """Operations of matrix products over sources of these lengths, [B] int64; attention counts whole."""
        linear = sum(p.numel() for p in self.layers.parameters() if p.dim() == 2)
        seen = len(self.layers) * self.width * int((lengths * lengths).sum())
        return 2 * int(lengths.sum()) * linear + 4 * seen
