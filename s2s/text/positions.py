"""Positions of a source as symbols: the target of a pointer network.

Paper: Vinyals et al., "Pointer Networks", NIPS 2015, https://arxiv.org/abs/1506.03134.

A target is a line of numbers, which count the tokens of the source from 1. Number n is symbol n of the vocabulary after
the special symbols. The vocabulary does not depend on the training text, so that `model.output=pointer` can map symbols
to positions; `size` is the largest number. Before training, each target is checked against the length of its source.

Use: s2s-preprocess source_tokenizer=words target_tokenizer=positions

Left out: targets beside the positions, such as words of a vocabulary; see `model.output=copy`.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from s2s.config.schema import option
from s2s.text.tokenizer import TokenizerConfig
from s2s.text.vocabulary import SPECIALS, Vocabulary
from s2s.text.words import WordTokenizer

FIRST = len(SPECIALS)  # the id of position 1


@dataclasses.dataclass
class PositionConfig(TokenizerConfig):
    """Options of the tokenizer."""

    type: str = option("positions", "component")
    size: int = option(1000, "the greatest position, from 1", at_least=1, at_most=1_000_000)


class PositionTokenizer(WordTokenizer):
    """Splits numbers at whitespace. Decoding puts one space between them."""

    Config = PositionConfig

    @classmethod
    def _learn(cls, config: PositionConfig, chunks: Iterable[list[str]], seed: int) -> "PositionTokenizer":
        return cls(config, Vocabulary([*SPECIALS, *map(str, range(1, config.size + 1))]))


def outside(ids: np.ndarray, lengths: np.ndarray, sources: np.ndarray) -> np.ndarray:
    """Whether each target contains an id that is not a position of its source: bool [n].

    Args:
        ids: The ids of all targets, concatenated.
        lengths: [n], number of ids of each target.
        sources: [n], number of tokens of each source.
    """
    wrong = (ids < FIRST) | (ids - FIRST >= np.repeat(sources, lengths))
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths), wrong, len(lengths)) > 0
