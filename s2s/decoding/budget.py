"""The memory budget: how many sentences are decoded together under `decode.batch_tokens`.

All sentences are padded to the longest one. slots x rows x longest source is at most `decode.batch_tokens`, and slots x
rows x longest possible hypothesis at most TARGETS times as much. A single sentence is always decoded. The same number
of sources again is encoded ahead.
"""

import numpy as np

from s2s.decoding.config import DecodeConfig

# Most hypotheses end long before the maximum length, and their memory is allocated as they grow.
TARGETS = 8
# Defaults of `decode.batch_tokens`. A small model on a CPU gains nothing from more; a GPU needs hundreds of rows to be
# busy. The value for a GPU has not been measured on one.
BATCH_TOKENS = {"cpu": 6000, "cuda": 32000}


def room(config: DecodeConfig, source: int | np.ndarray, target: int | np.ndarray):
    """How many sentences may be decoded together, at least 1.

    Args:
        config: Decode options.
        source: Positions in memory of the longest source.
        target: Tokens of the longest possible hypothesis, EOS among them.

    Returns:
        An integer, or an array of integers if the arguments are arrays.
    """
    budget = config.batch_tokens // config.rows
    return np.clip(np.minimum(budget // source, TARGETS * budget // target), 1, config.slots)


def together(config: DecodeConfig, needs: np.ndarray) -> int:
    """How many of the first sentences may be decoded together, at least 1.

    Args:
        config: Decode options.
        needs: int64 [2, sentences], source positions and target tokens of each sentence, as in `room`.
    """
    longest = np.maximum.accumulate(needs[:, : room(config, *needs[:, 0])], axis=1)
    fits = room(config, *longest) > np.arange(longest.shape[1])
    return len(fits) if fits.all() else int(fits.argmin())


def plan(lengths: list[int], rows: int, budget: int) -> list[list[int]]:
    """Batches of sentences, sorted by falling length, each as large as the budget allows.

    Args:
        lengths: Positions or tokens of each sentence, EOS included.
        rows: K, hypotheses per sentence.
        budget: Maximum of sentences x K x longest source in a batch. A sentence that exceeds it by itself is a batch
            of its own.

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
