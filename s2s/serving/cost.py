"""An upper bound on the cost of decoding a line, known before it is decoded, and the speed of this machine."""

import dataclasses
import time
from typing import Any

import numpy as np

from s2s.decoding.config import DecodeConfig
from s2s.decoding.inputs import Window
from s2s.decoding.limits import bounds
from s2s.decoding.models import ctc_weight
from s2s.decoding.translator import Translator
from s2s.tasks.multi_source import Several
from s2s.text.vocabulary import UNK

FAR = 1000  # attending to this many tokens costs as much as computing one more token
SAMPLE = 8, 20  # lines, and tokens of each line, that are decoded to measure the speed


def cost(config: DecodeConfig, length: int, most: int | None, prefix: int = 0) -> int:
    """The most tokens that the search for a line computes: those of the source and of all hypotheses. Each token is
    weighted by the tokens that it attends to: with 1,000 of them it counts twice.

    Args:
        config: Decode options.
        length: Length of the source, in tokens or encoder positions.
        most: Longest sequence of the model, as `EncoderDecoder.max_length`.
        prefix: Length of what its hypotheses must begin with, in tokens.

    Returns:
        The cost, a whole number; 0 for an empty source.
    """
    if not length:  # an empty line is not decoded
        return 0
    longest = bounds(config, length, prefix, most)[1] + 1
    return (length + config.rows * longest) * (FAR + length + longest) // FAR


def measure(translator: Translator, decode: DecodeConfig) -> float:
    """Measure the speed: the cost that is decoded in a second, for a few short lines with hypotheses of their
    length."""
    lines, length = SAMPLE
    if translator.max_length is not None:
        length = min(length, translator.max_length - 1)
    lengths = {"min_length_a": 0.0, "min_length_b": length, "max_length_a": 0.0, "max_length_b": length}
    alone = ctc_weight(decode, translator.models) == 1  # CTC alone writes no more than there are encoder positions
    config = decode if alone else dataclasses.replace(decode, **lengths)
    source = _source(translator.task, length)
    seconds = 0.0
    for _ in range(2):  # the first pass compiles kernels and touches memory; the second one counts
        start = time.perf_counter()
        tags = {name: values[0] for name, values in translator.task.tags.items()}
        list(translator.decode([Window([source] * lines, None, tags=tags)], config))
        seconds = time.perf_counter() - start
    return lines * cost(config, translator.length(source), translator.max_length) / seconds


def _source(task, length: int) -> Any:
    """A source of so many tokens, or a recording of a second."""
    if task.frame_seconds is not None:
        frames = round(1 / task.frame_seconds)
        return np.random.default_rng(1).standard_normal((frames, task.spec.sources[0].width), np.float32)
    sources = len(task.spec.sources)
    return [UNK] * length if sources == 1 else Several([[UNK] * length] * sources)
