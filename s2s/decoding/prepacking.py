"""Prepacking: the sources of a batch share rows in the encoder, so that it computes little on padding.

Paper: Zhao et al., "Prepacking: A Simple Method for Fast Prefilling and Increased Throughput in Large Language Models",
2024, https://arxiv.org/abs/2404.09529.

The N sources of a batch are packed into rows of the length of the longest source, by first fit in order of decreasing
length. In a row of [B, S], each source has its own positions and sees only itself. The encoder states of the rows are
split into the memory of each source, [N, S, D], before the search begins. The search does not see packed rows.

Use: decode.pack_source=true

Left out: the causal cache of a decoder-only model, because only sources are encoded at once here. Lines of a file are
sorted by length before they are decoded, so that their batches have little padding; packing helps where few sentences
of very different lengths come at a time.
"""

import copy
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from s2s.data.batch import Inputs, Source
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.models.encoder_decoder import NO_TAGS, EncoderDecoder
from s2s.nn.attention import length_mask
from s2s.nn.packed_rows import Examples
from s2s.tasks.text import packing_of, padded


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
    order = torch.tensor([example for row in rows for example in row], device=source.values.device)
    counts, lengths = np.array([len(row) for row in rows]), source.lengths[order]
    totals = np.add.reduceat(lengths.cpu().numpy(), counts.cumsum() - counts)
    real = length_mask(lengths, source.values.size(1))[:, 0, 0]
    values = padded(source.values[order][real].cpu().numpy(), totals)
    packing = packing_of(lengths.cpu().numpy(), counts)
    return Source(values, torch.from_numpy(totals), packing).to(source.values.device)


def cut(memory: Memory, order: Tensor, tags: Mapping[str, Tensor]) -> Memory:
    """Split the memory of packed rows into one row for each example; order: [N] int64, place of each example."""
    segments, places = memory.segments, torch.arange(memory.segments.size(1), device=order.device)
    begins = nn.functional.pad(segments.diff(dim=1) > 0, (1, 0))
    positions = places - (places * begins).cummax(dim=1).values
    examples = Examples(segments, positions * memory.mask[:, 0, 0])
    lengths = examples.lengths[order]
    states = [examples.rows(x)[order] for x in memory.states]
    last = None if memory.last is None else memory.last[order]
    return Memory(states, lengths, length_mask(lengths, states[0].size(1)), tags=tags, last=last)
