"""UL2: a mixture of denoisers, each announced by a symbol of its mode.

Paper: Tay et al., "UL2: Unifying Language Learning Paradigms", ICLR 2023, https://arxiv.org/abs/2205.05131.

Each text gets one of seven denoisers at random. Two are regular, `<R>`: spans of 3 or 8 tokens, 15% of a text. Four are
extreme, `<X>`: spans of 3 or 8 tokens, 50% of a text, or of 64 tokens, 15% or 50%. One is sequential, `<S>`: the last
quarter of a text. The symbol of the mode stands before the source. Sentinels and targets are those of T5
(s2s/data/noises/spans.py). After training, a source with `<S>` before it is continued.

Use: task=denoising task.noise=ul2

Left out: switching modes in fine-tuning, which is a tag (`task.source_tags`); uncertain: the denoisers are equally
likely here.
"""

import dataclasses

import numpy as np

from s2s.config.schema import option
from s2s.data.noises.noise import MODES, Noise, Noised
from s2s.data.noises.spans import corrupted, counts
from s2s.text.vocabulary import Vocabulary

REGULAR, SEQUENTIAL, EXTREME = MODES
DENOISERS = ((REGULAR, 3, 0.15), (REGULAR, 8, 0.15), (EXTREME, 3, 0.5), (EXTREME, 8, 0.5), (EXTREME, 64, 0.15),
             (EXTREME, 64, 0.5))  # mode, mean length of spans, share of the tokens  # fmt: skip
LAST = 4  # the sequential denoiser hides the last of so many parts


@dataclasses.dataclass
class Ul2Config:
    """Options of the noise."""

    type: str = option("ul2", "component")


class Ul2(Noise):
    """Seven denoisers."""

    Config = Ul2Config

    def __init__(self, config: Ul2Config, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        self.marks, self.modes = self.sentinels(), {mode: self.symbol(mode) for mode in MODES}

    def most(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in Noise."""
        sizes = [counts(lengths, ratio, span, len(self.marks)) for _, span, ratio in DENOISERS]
        last = np.maximum(1, lengths // LAST)
        sources = np.maximum.reduce([lengths - last + 1, *(lengths - noise + spans for noise, spans in sizes)])
        return sources + 1, np.maximum.reduce([last + 1, *(noise + spans for noise, spans in sizes)])

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> Noised:
        """As in Noise."""
        which = int(rng.integers(len(DENOISERS) + 1))
        if which == len(DENOISERS):
            mode, place = SEQUENTIAL, len(ids) - max(1, len(ids) // LAST)
            made = Noised(np.append(ids[:place], self.marks[0]), np.insert(ids[place:], 0, self.marks[0]))
        else:
            mode, span, ratio = DENOISERS[which]
            made = corrupted(ids, ratio, span, self.marks, rng)
        return made._replace(source=np.insert(made.source, 0, self.modes[mode]))
