"""What a line costs to decode at most, known before it is decoded, and how fast it goes here."""

import dataclasses
import time

from s2s.decoding.config import DecodeConfig
from s2s.decoding.inputs import Window
from s2s.decoding.limits import bounds
from s2s.decoding.translator import Translator
from s2s.text.vocabulary import UNK

FAR = 1000  # so many tokens to look back at take as long as one more token
SAMPLE = 8, 20  # lines of how many tokens are decoded to measure speed


def cost(config: DecodeConfig, length: int, most: int | None) -> int:
    """Tokens that the search for a line computes at most: its own and those of all hypotheses. A token counts the more,
    the more others it looks back at: twice with 1,000 of them.

    Args:
        config: Decode options.
        length: Of the source, in tokens.
        most: As `EncoderDecoder.max_length`.
    """
    if not length:  # which no model sees
        return 0
    longest = bounds(config, length, 0, most)[1] + 1
    return (length + config.rows * longest) * (FAR + length + longest) // FAR


def measure(translator: Translator, decode: DecodeConfig) -> float:
    """Cost that is decoded in a second: of a few short lines whose hypotheses are as long as they."""
    lines, length = SAMPLE
    if translator.max_length is not None:
        length = min(length, translator.max_length - 1)
    lengths = {"min_length_a": 0.0, "min_length_b": length, "max_length_a": 0.0, "max_length_b": length}
    config = dataclasses.replace(decode, **lengths)
    seconds = 0.0
    for _ in range(2):  # kernels are compiled and memory is touched in the first one
        start = time.perf_counter()
        tags = {name: values[0] for name, values in translator.task.tags.items()}
        list(translator.decode([Window([[UNK] * length] * lines, None, tags=tags)], config))
        seconds = time.perf_counter() - start
    return lines * cost(config, length, translator.max_length) / seconds
