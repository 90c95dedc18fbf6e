"""Fusion-in-encoder: lower layers see chunks of a long source, the top layers see all of it.

Paper: He et al., "Z-Code++: A Pre-trained Language Model Optimized for Abstractive Summarization", ACL 2023,
https://arxiv.org/abs/2208.09770.

A source [S, D] is cut into C chunks of `chunk` positions, the last one perhaps shorter. The lower layers have the
chunks as rows, [C, chunk, D], so that their attention takes S * chunk and not S * S pairs. Their states are
concatenated again, [S, D], and the `global_layers` above them see the whole source. Chunks of padding alone are not
computed. The layers may be of any kind (`model.encoder.layer`); Z-Code++ has disentangled attention.

Use: model=zcode_tiny; or model.encoder=fusion_in_encoder model.encoder.chunk=64 model.encoder.global_layers=1

Left out: the two phases of pre-training; overlap of chunks. Uncertain: the size of a chunk and the number of global
layers in the paper.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from s2s.config.schema import group, option
from s2s.errors import UserError
from s2s.models.contract import Memory, Shared, States
from s2s.models.encoders.transformer import layers_of, relative_bias_of, tags_of
from s2s.models.stack import LayeredEncoder, StackConfig, check_heads
from s2s.nn.attention import length_mask
from s2s.nn.norms import norm_of
from s2s.nn.packed_rows import Examples


@dataclasses.dataclass
class FusionConfig(StackConfig):
    """Options of the encoder."""

    chunk: int = option(64, "positions that a lower layer sees together", at_least=1, at_most=1_048_576)
    global_layers: int = option(1, "top layers that see the whole source", at_least=1, at_most=1000)
    layer: Any = group("layer", "transformer", "type of the layers")
    type: str = option("fusion_in_encoder", "component")


class Chunks:
    """Cuts rows into chunks and joins them again.

    Args:
        lengths: [B] int64, real positions of each row.
        size: S.
        chunk: Positions of a chunk.

    Attributes:
        rows: [N] int64, the row of each chunk, without chunks of padding alone.
        lengths: [N] int64, real positions of each chunk.
    """

    def __init__(self, lengths: Tensor, size: int, chunk: int):
        self.size, self.chunk, self.count = size, chunk, -(-size // chunk)
        first = torch.arange(self.count, device=lengths.device) * chunk
        self.kept = (first < lengths[:, None]).flatten().nonzero()[:, 0]
        self.rows = self.kept // self.count
        self.lengths = (lengths[:, None] - first).clamp(max=chunk).flatten()[self.kept]

    def cut(self, x: Tensor) -> Tensor:
        """[B, S, D] -> [N, chunk, D]"""
        padded = nn.functional.pad(x, (0, 0, 0, self.count * self.chunk - self.size))
        return padded.reshape(-1, self.chunk, x.size(2))[self.kept]

    def join(self, x: Tensor, rows: int) -> Tensor:
        """[N, chunk, D] -> [B, S, D], zero where there is no chunk; rows: B."""
        joined = x.new_zeros(rows * self.count, *x.shape[1:]).index_copy(0, self.kept, x)
        return joined.view(rows, -1, x.size(2))[:, : self.size]


class FusionInEncoder(LayeredEncoder):
    """An encoder whose lower layers see chunks.

    Args:
        config: The options.
        shared: Options that all parts of the model share.

    Attributes:
        needed: As in TransformerEncoder.

    Raises:
        UserError: heads that do not divide the width, or no layer below those that see the whole source.
    """

    Config = FusionConfig
    exits = ()
    segmented = True  # packed rows are taken apart
    chunked = True  # rows of the lower layers are chunks

    def __init__(self, config: FusionConfig, shared: Shared):
        super().__init__()
        check_heads("model.encoder", config, shared.positions)
        if config.global_layers >= config.layers:
            raise UserError(f"model.encoder.global_layers={config.global_layers}: must be below "
                            f"model.encoder.layers={config.layers}")  # fmt: skip
        self.config, self.width, self.local = config, config.width, config.layers - config.global_layers
        self.layers = layers_of(config, shared)
        self.relative = relative_bias_of(config, shared, self.layers)
        self.norm = norm_of(shared.norm_type, config.width) if shared.norm == "pre" else nn.Identity()
        self.needed: tuple[int, ...] = ()

    def forward(self, source: States) -> Memory:
        """As in TransformerEncoder."""
        x, lengths, packing = source.values, source.lengths, source.packing
        examples = None if packing is None else Examples(*packing)
        if examples is not None:
            x, lengths = examples.rows(x), examples.lengths
        chunks = Chunks(lengths, x.size(1), self.config.chunk)
        local, whole = self.layers[: self.local], self.layers[self.local :]
        below = self._run(local, 1, chunks.cut(x), chunks.lengths, _of_rows(source.tags, chunks.rows))
        below = {number: chunks.join(x, len(lengths)) for number, x in below.items()}
        above = self._run(whole, len(local) + 1, below[len(local)], lengths, _of_rows(source.tags))
        states = [x for number, x in {**below, **above}.items() if number in self.needed]
        states.append(self.norm((above or below)[len(self.layers)]))
        if examples is not None:
            states = [examples.back(x) for x in states]
        keys = length_mask(source.lengths, source.values.size(1))
        return Memory(states, source.lengths, keys, packing and packing.segments)

    def _run(self, layers: nn.ModuleList, first: int, x: Tensor, lengths: Tensor,
             tags: dict[str, Tensor]) -> dict[int, Tensor]:  # fmt: skip
        """States after layers over rows x [N, T, D] of these lengths, by the layer's number: those of `needed` and of
        the last layer. first: number of the first layer; tags: value numbers of each tag, [N, 1]."""
        keys, states = length_mask(lengths, x.size(1)), {}
        mask = keys if self.relative is None else self.relative.masked(keys)
        for number, layer in enumerate(layers, first):
            real = None if getattr(layer, "unpads", False) else keys[:, 0, 0, :, None]
            x = layer(x, mask, real, *tags_of(layer, tags))
            if number in self.needed or number == first + len(layers) - 1:
                states[number] = x
        return states

    def flops(self, lengths: Tensor) -> int:
        """As in LayeredEncoder."""
        linear, chunk = sum(p.numel() for p in self.layers.parameters() if p.dim() == 2), self.config.chunk
        rest = lengths % chunk
        local = self.local * int((lengths // chunk * chunk * chunk + rest * rest).sum())
        pairs = local + self.config.global_layers * int((lengths * lengths).sum())
        return 2 * int(lengths.sum()) * linear + 4 * self.config.heads * self.config.head * pairs


def _of_rows(tags, rows: Tensor | None = None) -> dict[str, Tensor]:
    """The value numbers of each tag, int64 [examples], for rows: [N, 1]; rows: the example of each, None: all."""
    return {name: (tag if rows is None else tag[rows])[:, None] for name, tag in tags.items()}
