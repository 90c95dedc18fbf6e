"""MASS: the decoder writes the fragment that is masked in the source.

Paper: Song et al., "MASS: Masked Sequence to Sequence Pre-training for Language Generation", ICML 2019,
https://arxiv.org/abs/1905.02450.

A fragment of round(n * ratio) consecutive tokens is chosen. In the source each of its tokens is `<mask>`, so that the
source has n tokens as the text; with `random` and `keep` a share of them is a random token, or stays. The target is
the fragment. The decoder reads nothing of the text outside, and so depends on the encoder.

Use: task=denoising task.noise=mass task.noise.ratio=0.5

Left out: positions of the fragment in the decoder, which counts from its beginning here; uncertain: nothing.
"""

import dataclasses

import numpy as np

from s2s.config.schema import option
from s2s.data.noises.noise import Noise, Noised
from s2s.text.vocabulary import MASK, Vocabulary


@dataclasses.dataclass
class MassConfig:
    """Options of the noise."""

    type: str = option("mass", "component")
    ratio: float = option(0.5, "share of the tokens in the fragment", at_least=0.01, at_most=1)
    random: float = option(0.1, "share of its tokens that are a random token in the source", at_least=0, at_most=1)
    keep: float = option(0.1, "share of its tokens that stay in the source", at_least=0, at_most=1)


class Mass(Noise):
    """A masked fragment."""

    Config = MassConfig

    def __init__(self, config: MassConfig, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        self.mask = self.symbol(MASK)

    def most(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in Noise; these are the lengths themselves."""
        return lengths, np.minimum(lengths, np.maximum(1, np.rint(lengths * self.config.ratio))).astype(lengths.dtype)

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> Noised:
        """As in Noise."""
        size = int(self.most(np.array([len(ids)]))[1][0])
        first = int(rng.integers(len(ids) - size + 1))
        fragment, source, kind = ids[first : first + size], ids.copy(), rng.random(size)
        others = self.others(rng, size)
        stays = np.where(kind < self.config.random + self.config.keep, fragment, self.mask)
        source[first : first + size] = np.where(kind < self.config.random, others, stays)
        return Noised(source, fragment)
