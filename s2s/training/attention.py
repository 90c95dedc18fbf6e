"""Draws attention maps: the cross-attention of a model while it writes a translation."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from s2s import figures
from s2s.decoding.alignment import Attention, position_symbols
from s2s.tasks.tags import plain
from s2s.text.vocabulary import EOS

CELL, LABEL = 0.22, 1.8  # size of a cell and space for labels, in inches
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


def to_figure(attention_map: Map, title: str = ""):
    """A map as a figure: the source from left to right, the translation downwards; larger weights are darker."""
    rows, columns = attention_map.weights.shape
    picture = figures.figure(max(3.5, LABEL + CELL * columns + 0.8), max(2.0, LABEL + CELL * rows))
    ax = picture.subplots()
    image = ax.imshow(attention_map.weights, cmap="Blues", vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    for axis, symbols in ((ax.xaxis, attention_map.source), (ax.yaxis, attention_map.target)):
        axis.set_ticks(range(len(symbols)), [figures.readable(_short(symbol)) for symbol in symbols])
    ax.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    ax.tick_params(axis="x", rotation=90)
    if title:
        picture.suptitle(title)
    picture.colorbar(image, ax=ax, label="weight", fraction=0.05)
    return picture


def draw(attention_map: Map, path: Path, title: str = "") -> None:
    """Draw a map into a file, whose ending chooses its kind: PNG, SVG or PDF."""
    path.parent.mkdir(exist_ok=True)
    figures.save(to_figure(attention_map, title), path, [*attention_map.source, *attention_map.target])


def _short(symbol: str) -> str:
    return symbol if len(symbol) <= LONGEST else f"{symbol[: LONGEST - 1]}…"
