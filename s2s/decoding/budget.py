"""How many sentences are decoded side by side, so that what is held stays within `decode.batch_tokens`, whoever comes.

Everything that is held of the sentences is padded to the longest of them: slots x rows x longest source is at most
`decode.batch_tokens`, and slots x rows x longest hypothesis that the limits allow at most TARGETS times as many, but
that a single sentence is always decoded. As many sources again are encoded ahead.
"""

import numpy as np

from s2s.decoding.config import DecodeConfig

# Hypotheses mostly end long before they must, and their memory is taken as they grow.
TARGETS = 8


def room(config: DecodeConfig, source: int | np.ndarray, target: int | np.ndarray):
    """Sentences that memory allows side by side, at least 1.

    Args:
        config: Decode options.
        source: Positions in memory of the longest source.
        target: Tokens of the longest hypothesis that may come, EOS among them.

    Returns:
        A whole number, or an array for arrays.
    """
    budget = config.batch_tokens // config.rows
    return np.clip(np.minimum(budget // source, TARGETS * budget // target), 1, config.slots)


def together(config: DecodeConfig, needs: np.ndarray) -> int:
    """How many of the first sentences memory allows side by side, at least 1; needs: [2, sentences], the source and
    target of each, as in `room`."""
    longest = np.maximum.accumulate(needs[:, : room(config, *needs[:, 0])], axis=1)
    fits = room(config, *longest) > np.arange(longest.shape[1])
    return len(fits) if fits.all() else int(fits.argmin())


def plan(lengths: list[int], rows: int, budget: int) -> list[list[int]]:
    """Which sentences are decoded together: by falling length, as many as the budget allows.

    Args:
        lengths: Positions or tokens of each sentence, EOS included.
        rows: Hypotheses a sentence, K.
        budget: Largest sentences x K x longest source of a batch; a sentence over it alone has a batch to itself.

    Returns:
        Batches of indices into `lengths`, each index once.
    """
    batches: list[list[int]] = []
    size = 0  # sentences that the batch may hold
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not batches or len(batches[-1]) >= size:
            batches.append([])
            size = max(1, budget // (rows * lengths[i]))
        batches[-1].append(i)
    return batches
