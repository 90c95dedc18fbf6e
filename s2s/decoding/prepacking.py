"""Prepacking: the sources of a batch share rows in the encoder, so that it computes little on padding.

Paper: Zhao et al., "Prepacking: A Simple Method for Fast Prefilling and Increased Throughput in Large Language Models",
2024, https://arxiv.org/abs/2404.09529.

The N sources of a batch are packed into rows of the length of the longest source, by first fit in order of decreasing
length. In a row of [B, S], each source has its own positions and sees only itself. The encoder states of the rows are
split into the memory of each source, [N, S, D], before the search begins. The search does not see packed rows.

Use: decode.pack_source=true

Left out: the causal cache of a decoder-only model, because only sources are encoded at once here. On a CPU the encoder
already computes a few rows of similar length at a time, without their padding. So packing is for GPUs, where it was not
measured.
"""

import copy

import torch
from torch import Tensor

from s2s.data.batch import Inputs, Packing, Source
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.models.encoder_decoder import NO_TAGS, EncoderDecoder
from s2s.nn.attention import length_mask


def prepacking(model: EncoderDecoder) -> EncoderDecoder:
    """A copy of a model that encodes packed rows. The weights are shared, and the model does not change.

    Raises:
        UserError: the model has no encoder, or an output that reads the source.
    """
    if model.encoder is None:
        raise UserError("decode.pack_source=true: the model has no encoder")
    if hasattr(model.output, "keep"):
        raise UserError(f"decode.pack_source=true: the output, a {type(model.output).__name__}, reads the source")
    other = copy.copy(model)
    other.encode = lambda sources, tags=NO_TAGS: unpacked_memory(model, Inputs(sources, tags))
    return other


def unpacked_memory(model: EncoderDecoder, inputs: Inputs) -> Memory:
    """The memory of each source, encoded in packed rows. Raises UserError: the source is not tokens."""
    if any(source.values.is_floating_point() for source in inputs.sources):
        raise UserError("decode.pack_source=true requires a source of tokens")
    (source,) = inputs.sources
    rows = first_fit(source.lengths.tolist())
    order = torch.tensor([example for row in rows for example in row], device=source.values.device)
    tags = {name: tag[order] for name, tag in inputs.tags.items()}
    memory = model.encode((packed_source(source, rows),), tags)
    assert memory.segments is not None
    return cut(memory, order.argsort(), inputs.tags)


def first_fit(lengths: list[int]) -> list[list[int]]:
    """The examples of each row. Examples are taken from long to short, and each goes to the first row with room."""
    width = max(lengths)
    rows: list[list[int]] = []
    room: list[int] = []
    for example in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((number for number, left in enumerate(room) if left >= lengths[example]), None)
        if row is None:
            rows.append([])
            room.append(width)
            row = len(rows) - 1
        rows[row].append(example)
        room[row] -= lengths[example]
    return rows


def packed_source(source: Source, rows: list[list[int]]) -> Source:
    """Pack sources into rows; rows: the examples of each row."""
    lengths, device = source.lengths.tolist(), source.values.device
    totals = [sum(lengths[example] for example in row) for row in rows]
    shape = (len(rows), max(totals))
    values = source.values.new_zeros(shape)
    segments, positions = (torch.zeros(shape, dtype=torch.int64) for _ in range(2))
    for number, row in enumerate(rows):
        first = 0
        for segment, example in enumerate(row):
            place = slice(first, first + lengths[example])
            values[number, place] = source.values[example, : lengths[example]]
            segments[number, place], positions[number, place] = segment, torch.arange(lengths[example])
            first += lengths[example]
        segments[number, first:] = len(row) - 1
    return Source(values, torch.tensor(totals, device=device), Packing(segments.to(device), positions.to(device)))


def cut(memory: Memory, order: Tensor, tags) -> Memory:
    """Split the memory of packed rows into one row for each example; order: [N] int64, place of each example."""
    segments = memory.segments
    counts = segments[:, -1] + 1  # padding repeats the last one
    real = torch.arange(segments.size(1), device=segments.device) < memory.lengths[:, None]
    example = ((counts.cumsum(0) - counts)[:, None] + segments)[real]
    lengths = torch.bincount(example, minlength=len(order))
    place = torch.arange(len(example), device=example.device) - (lengths.cumsum(0) - lengths)[example]
    size = int(lengths.max())

    def unpack(x: Tensor) -> Tensor:
        rows = x.new_zeros(len(order), size, x.size(2))
        rows[example, place] = x[real]
        return rows[order]

    lengths = lengths[order]
    return Memory([unpack(x) for x in memory.states], lengths, length_mask(lengths, size), tags=tags)
