"""Augmentation of training examples, drawn from (seed, epoch, example). It is the same in every batch, worker and
process, and after a run is resumed.

Random numbers come from splitmix64 (Steele, Lea and Flood 2014), applied to counters: there is no generator state.
"""

import dataclasses
import random
from typing import Any, ClassVar

import numpy as np

from s2s.audio.augment import SpecAugmentConfig, WaveformConfig
from s2s.config.schema import components, group, option
from s2s.text.vocabulary import UNK


@dataclasses.dataclass
class TransformConfig:
    """Options of the augmentation of training examples."""

    word_dropout: float = option(0.0, "probability that a source token is replaced by <unk>", at_least=0, below=1,
                                 reads="lines")  # fmt: skip
    prev_output_mask: float = option(
        0.0, "probability that a decoder input token is replaced by <mask>, in a vocabulary that reserves it, or else "
        "<unk>; its target is kept (MEAP, 2502.07490)",
        at_least=0, below=1,
    )  # fmt: skip
    character_noise: float = option(
        0.0, "probability that a source character is deleted, doubled, swapped with the next or replaced by another of "
        "its line; requires the raw text in the store (keep_text=true)", at_least=0, below=1, reads="lines",
    )  # fmt: skip
    spec_augment: SpecAugmentConfig = option(SpecAugmentConfig, "masks over features of recordings", reads="recordings")
    waveform: WaveformConfig = option(
        WaveformConfig, "changes of the speed, noise and volume of recordings", reads="recordings"
    )
    target_transform: Any = group(
        "target_transform", "none", "order of the target's tokens in the model; decoding puts them back"
    )
    transforms: Any = components("transform", [], "further changes, applied in this order")


def seeds(seed: int, epoch: int, examples: np.ndarray, purpose: str) -> np.ndarray:
    """A random number for each example.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch.
        examples: [n] example numbers.
        purpose: Any name; different purposes have independent random numbers.

    Returns:
        [n] uint64.
    """
    start = np.random.SeedSequence([seed, epoch, *purpose.encode()]).generate_state(1, np.uint64)[0]
    return splitmix64(start + np.asarray(examples, np.uint64) * np.uint64(0xD1342543DE82EF95))


def splitmix64(x: np.ndarray) -> np.ndarray:
    """The output function of splitmix64, uint64 to uint64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniform(seeds: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Uniform random numbers in [0, 1), float64 [sum of lengths]: lengths[i] numbers from seeds[i], concatenated."""
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    bits = splitmix64(np.repeat(seeds, lengths) + place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)) * 2.0**-53


def masked(
    ids: np.ndarray, lengths: np.ndarray, seeds: np.ndarray, probability: float, symbol: int = UNK
) -> np.ndarray:
    """Replace ids by a symbol at random.

    Args:
        ids: Concatenated ids of the rows.
        lengths: Length of each row.
        seeds: Random number of each row.
        probability: Of replacement.
        symbol: Id of the symbol.
    """
    return np.where(uniform(seeds, lengths) < probability, symbol, ids)


def noisy(line: str, seed: int, probability: float) -> str:
    """Change characters of a line at random: with `probability`, a character is deleted, doubled, swapped with the next
    one or replaced by another one of the line. White space stays."""
    rng, characters = random.Random(int(seed)), list(line)
    others = [c for c in characters if not c.isspace()]
    for place, character in enumerate(characters):
        if rng.random() >= probability or not character or character.isspace():
            continue
        what = rng.randrange(4)
        if what == 0:
            characters[place] = ""
        elif what == 1:
            characters[place] = 2 * character
        elif what == 2 and place + 1 < len(characters) and not characters[place + 1].isspace():
            characters[place : place + 2] = characters[place + 1], character
        else:
            characters[place] = rng.choice(others)
    return "".join(characters)


class Transform:
    """Augmentation of training examples, drawn again in each epoch: a component of kind `transform`, for
    `data.transforms=[NAME]`.

    Batches are planned by the original lengths of examples. So a transform may make examples much shorter, but only a
    little longer.

    Args:
        config: Its `Config`.
        task: The task, which has the vocabularies.

    Attributes:
        stream: The stream that it changes: `source`, `target` (in the order of the text), or `shown`, the target as
            the decoder reads it, whose length must not change.
    """

    Config: ClassVar[type]
    stream: ClassVar[str] = "source"

    def __init__(self, config: Any, task: Any):
        self.config, self.task = config, task

    def __call__(self, values: np.ndarray, lengths: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Change examples.

        Args:
            values: Concatenated values of the examples, which must not be written to: token ids without BOS and EOS,
                int64 [sum of lengths]; or normalised features, float32 [sum of lengths, F].
            lengths: Length of each example, int64 [examples].
            seeds: A random number for each example, uint64 [examples]; the only source of randomness.

        Returns:
            The new values and lengths, in the same form.
        """
        raise NotImplementedError


@dataclasses.dataclass
class ShuffleConfig:
    """Options of `shuffle`."""

    type: str = option("shuffle", "component")
    distance: int = option(3, "maximum number of places by which a source token moves", at_least=1)


class Shuffle(Transform):
    """Shuffles source tokens by at most `distance` places (Lample et al. 2018, section 2.3): they are sorted by place +
    u, with u uniform in [0, distance + 1)."""

    Config = ShuffleConfig

    def __call__(self, values: np.ndarray, lengths: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in Transform."""
        rows = np.repeat(np.arange(len(lengths)), lengths)
        key = np.arange(len(values)) + uniform(seeds, lengths) * (self.config.distance + 1)
        return values[np.lexsort((key, rows))], lengths
