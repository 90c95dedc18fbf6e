"""What a sentence costs of its source and target length, in tokens; arrays or numbers. For `data.cost`."""

import numpy as np

Lengths = np.ndarray | int


def max(source: Lengths, target: Lengths) -> Lengths:
    """The longer side."""
    return np.maximum(source, target)


def sum(source: Lengths, target: Lengths) -> Lengths:
    """Both sides."""
    return np.add(source, target)


def product(source: Lengths, target: Lengths) -> Lengths:
    """Pairs of tokens."""
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
