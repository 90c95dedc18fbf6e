"""Cost functions of `data.cost`: the cost of a sentence from its source and target length (arrays or integers)."""

import numpy as np

Lengths = np.ndarray | int


def max(source: Lengths, target: Lengths) -> Lengths:
    """The longer side."""
    return np.maximum(source, target)


def sum(source: Lengths, target: Lengths) -> Lengths:
    """The sum of both sides."""
    return np.add(source, target)


def product(source: Lengths, target: Lengths) -> Lengths:
    """The number of pairs of a source and a target token."""
    return np.multiply(source, target)


def source(source: Lengths, target: Lengths) -> Lengths:
    """The source alone."""
    return source


def target(source: Lengths, target: Lengths) -> Lengths:
    """The target alone."""
    return target


def frames(source: Lengths, target: Lengths) -> Lengths:
    """The source alone, in frames of audio."""
    return source
