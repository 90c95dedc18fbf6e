"""An upper bound on the cost of decoding a line, known before it is decoded, and the speed of this machine."""

import dataclasses
import time

from s2s.decoding.config import DecodeConfig
from s2s.decoding.inputs import Window
from s2s.decoding.limits import bounds
from s2s.decoding.translator import Translator
from s2s.text.vocabulary import UNK

FAR = 1000  # attending to this many tokens costs as much as computing one more token
SAMPLE = 8, 20  # lines, and tokens of each line, that are decoded to measure the speed


def cost(config: DecodeConfig, length: int, most: int | None) -> int:
    """The most tokens that the search for a line computes: those of the source and of all hypotheses. Each token is
    weighted by the tokens that it attends to: with 1,000 of them it counts twice.

    Args:
        config: Decode options.
        length: Length of the source, in tokens.
        most: Longest sequence of the model, as `EncoderDecoder.max_length`.

    Returns:
        The cost, a whole number; 0 for an empty source.
    """
    if not length:  # an empty line is not decoded
        return 0
    longest = bounds(config, length, 0, most)[1] + 1
    return (length + config.rows * longest) * (FAR + length + longest) // FAR


def measure(translator: Translator, decode: DecodeConfig) -> float:
    """Measure the speed: the cost that is decoded in a second, for a few short lines with hypotheses of their
    length."""
    lines, length = SAMPLE
    if translator.max_length is not None:
        length = min(length, translator.max_length - 1)
    lengths = {"min_length_a": 0.0, "min_length_b": length, "max_length_a": 0.0, "max_length_b": length}
    config = dataclasses.replace(decode, **lengths)
    seconds = 0.0
    for _ in range(2):  # the first pass compiles kernels and touches memory; the second one counts
        start = time.perf_counter()
        tags = {name: values[0] for name, values in translator.task.tags.items()}
        list(translator.decode([Window([[UNK] * length] * lines, None, tags=tags)], config))
        seconds = time.perf_counter() - start
    return lines * cost(config, length, translator.max_length) / seconds
