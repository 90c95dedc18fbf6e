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
        source: Positions of the longest source, EOS among them.
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
