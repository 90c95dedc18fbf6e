"""Draws attention maps: the cross-attention of a model while it writes a translation."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from s2s.decoding.alignment import Attention, position_symbols
from s2s.drawing import INK, Canvas
from s2s.tasks.tags import plain
from s2s.text.vocabulary import EOS

SHADE = (0x00, 0x72, 0xB2)  # colour of weight 1; weight 0 is white
CELL, LABEL, MARGIN = 18, 120, 12  # pixels
LONGEST = 16  # maximum length of a label, in characters


class Map(NamedTuple):
    """The cross-attention of one translation.

    Attributes:
        source: Its symbols, EOS last, perhaps several at a position; or times of a recording.
        target: The symbols written, EOS last.
        weights: float32 [target, source]; each row belongs to the position that predicts the symbol, and sums to 1.
    """

    source: list[str]
    target: list[str]
    weights: np.ndarray


def attention_maps(task, model, decode, pairs: list[tuple[Sequence, list[int]]]) -> list[Map]:
    """The attention maps of translations.

    Args:
        task: The task.
        model: In evaluation mode.
        decode: Decode options; `alignment_layer` and `alignment_head` choose the attention.
        pairs: Each source, and the ids of its translation without EOS.
    """
    attention, device = Attention([model], decode), next(model.parameters()).device
    symbols = task.target_tokenizer.vocabulary.symbols
    maps = []
    for source, target in pairs:
        decoder_input = torch.tensor([[*task.first_tokens([source]), *target]], device=device)
        (weights,) = attention(task.collate_sources([source], device), decoder_input)
        written = [symbols[i] for i in [*target, EOS]]
        maps.append(Map(position_symbols(task, model, plain(source), weights.shape[1]), written, weights))
    return maps


def draw(attention_map: Map, path: Path) -> None:
    """Draw a map as a PNG file: the source from left to right, the translation downwards; larger weights are darker."""
    left = top = MARGIN + LABEL
    rows, columns = attention_map.weights.shape
    canvas = Canvas(left + columns * CELL + MARGIN, top + rows * CELL + MARGIN)
    for column, symbol in enumerate(attention_map.source):
        canvas.upright(left + CELL * (column + 0.5), top - 6, _short(symbol))
    for row, symbol in enumerate(attention_map.target):
        y = top + CELL * row
        canvas.text(left - 6, y + CELL / 2, _short(symbol), "rm")
        for column, weight in enumerate(attention_map.weights[row].clip(0, 1)):
            color = tuple(round(255 + (shade - 255) * float(weight)) for shade in SHADE)
            x = left + CELL * column
            canvas.box(x, y, x + CELL, y + CELL, "#{:02x}{:02x}{:02x}".format(*color))
    right, bottom = left + CELL * columns, top + CELL * rows
    canvas.line(left, top, right, top, right, bottom, left, bottom, left, top, color=INK)
    path.parent.mkdir(exist_ok=True)
    canvas.save(path)


def _short(symbol: str) -> str:
    return symbol if len(symbol) <= LONGEST else f"{symbol[: LONGEST - 1]}…"
