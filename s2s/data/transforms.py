"""Noise and rearrangements of training examples, redrawn from (seed, epoch, example): the same in whatever batch,
worker or process an example is drawn, and after a resumption.

Random numbers come from splitmix64 (Steele, Lea and Flood 2014) on counters: no generator has a state.
"""

import dataclasses
import random

import numpy as np

from s2s.audio.augment import SpecAugmentConfig, WaveformConfig
from s2s.config.schema import option
from s2s.text.tokenizer import Tokenizer
from s2s.text.vocabulary import EOS, UNK

TARGET_TRANSFORMS = ("none", "reverse", "last_word_first")


@dataclasses.dataclass
class TransformConfig:
    """Options of what is done to training examples when they are read."""

    word_dropout: float = option(0.0, "probability that a source token is replaced by <unk>", at_least=0, below=1)
    prev_output_mask: float = option(
        0.0, "probability that a decoder input token is replaced by <mask>, in a vocabulary that reserves it, or else "
        "<unk>; its target is kept (MEAP, 2502.07490)",
        at_least=0, below=1,
    )  # fmt: skip
    character_noise: float = option(
        0.0, "probability that a source character is deleted, doubled, swapped with the next or replaced by another of "
        "its line; needs the raw text in the store (keep_text=true)", at_least=0, below=1,
    )  # fmt: skip
    spec_augment: SpecAugmentConfig = option(SpecAugmentConfig, "masks over features of recordings")
    waveform: WaveformConfig = option(WaveformConfig, "recordings at other speeds, with noise, louder and softer")
    target_transform: str = option(
        "none", "order of the target's tokens in the model; decoding puts them back", TARGET_TRANSFORMS
    )


def seeds(seed: int, epoch: int, examples: np.ndarray, purpose: str) -> np.ndarray:
    """A random number for each example; other purposes have other ones.

    Args:
        examples: [n] example numbers.

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
    """Uniform numbers of [0, 1), `lengths[i]` of them from `seeds[i]`, one after the other, float64."""
    place = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    bits = splitmix64(np.repeat(seeds, lengths) + place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(11)) * 2.0**-53


def masked(
    ids: np.ndarray, lengths: np.ndarray, seeds: np.ndarray, probability: float, symbol: int = UNK
) -> np.ndarray:
    """Ids of rows one after the other, each replaced by a symbol with `probability`."""
    return np.where(uniform(seeds, lengths) < probability, symbol, ids)


def noisy(line: str, seed: int, probability: float) -> str:
    """A line whose characters, white space apart, are each deleted, doubled, swapped with the next one or replaced by
    another one of the line, with `probability` in all."""
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


class TargetTransform:
    """The order in which a model sees the tokens of a target, and the way back.

    `last_word_first` puts the last word, which has to rhyme, before the others, so that a prefix can force it. What is
    forced is that word, whole, and the beginning of the others.

    Args:
        kind: Of TARGET_TRANSFORMS.
        tokenizer: Of the target side; it knows where words begin.
    """

    def __init__(self, kind: str, tokenizer: Tokenizer):
        self.kind = kind
        self.begins, self.separator = tokenizer.word_marks() if kind == "last_word_first" else (None, None)
        self.symbols = len(tokenizer.vocabulary)

    @property
    def closing(self) -> np.ndarray | None:
        """Bool [vocabulary], which tokens show that the word before them is whole, where not every one does and a
        prefix is to be so."""
        if self.kind != "last_word_first" or (self.begins is not None and self.begins.all()):
            return None
        closing = np.zeros(self.symbols, bool) if self.begins is None else self.begins.copy()
        closing[EOS] = True
        if self.separator is not None:
            closing[self.separator] = True
        return closing

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """Ids of a target in the model's order."""
        if self.kind == "none" or len(ids) < 2:
            return ids
        if self.kind == "reverse":
            return ids[::-1]
        return self._turn(ids, -1)

    def undo(self, ids: np.ndarray) -> np.ndarray:
        """Ids in the model's order as the text has them."""
        if self.kind == "none" or len(ids) < 2:
            return ids
        if self.kind == "reverse":
            return ids[::-1]
        return self._turn(ids, 0)

    def _turn(self, ids: np.ndarray, which: int) -> np.ndarray:
        """What is after the last (-1) or first (0) boundary between words, then what is before it."""
        if self.separator is not None:
            places = np.flatnonzero(ids == self.separator)
            if not len(places):
                return ids
            place = places[which]
            return np.concatenate([ids[place + 1 :], ids[place : place + 1], ids[:place]])
        places = 1 + np.flatnonzero(self.begins[ids[1:]])
        if not len(places):
            return ids
        return np.concatenate([ids[places[which] :], ids[: places[which]]])
