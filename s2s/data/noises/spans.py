"""T5: the target is what is missing from the source, with sentinels between.

Paper: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
https://arxiv.org/abs/1910.10683; Xue et al., "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models",
TACL 2022, https://arxiv.org/abs/2105.13626 (spans of bytes, with a mean length of 20).

A share `ratio` of the n tokens is corrupted, in round(n * ratio / span) spans of random lengths with the mean `span`,
which do not touch. In the source each span becomes a sentinel, `<extra_id_0>`, `<extra_id_1>` and so on; the target is
each sentinel and the tokens of its span. So decoders read and write a small part of the text.

Use: task=denoising task.noise=spans task.noise.ratio=0.15 task.noise.span=3

Left out: a last sentinel at the end of the target, in place of which stands EOS; ByT5's sentinels, which are its last
byte symbols, are symbols of their own here.
"""

import dataclasses

import numpy as np

from s2s.config.schema import option
from s2s.data.noises.noise import Noise, Noised
from s2s.text.vocabulary import Vocabulary


@dataclasses.dataclass
class SpansConfig:
    """Options of the noise."""

    type: str = option("spans", "component")
    ratio: float = option(0.15, "share of the tokens in spans", at_least=0.01, below=1)
    span: float = option(3.0, "mean length of a span", at_least=1)


class Spans(Noise):
    """Sentinels in place of spans."""

    Config = SpansConfig

    def __init__(self, config: SpansConfig, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        self.marks = self.sentinels()

    def most(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in Noise; these are the lengths themselves."""
        noise, spans = counts(lengths, self.config.ratio, self.config.span, len(self.marks))
        return lengths - noise + spans, noise + spans

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> Noised:
        """As in Noise."""
        return corrupted(ids, self.config.ratio, self.config.span, self.marks, rng)


def counts(lengths: np.ndarray, ratio: float, span: float, sentinels: int) -> tuple[np.ndarray, np.ndarray]:
    """How many tokens of texts are corrupted, and in how many spans; integers [texts] each."""
    noise = np.minimum(lengths, np.maximum(1, np.rint(lengths * ratio))).astype(np.int64)
    spans = np.maximum(1, np.rint(noise / span)).astype(np.int64)
    return noise, np.minimum.reduce([spans, noise, lengths - noise + 1, np.full_like(spans, sentinels)])


def corrupted(ids: np.ndarray, ratio: float, span: float, marks: np.ndarray, rng: np.random.Generator) -> Noised:
    """A text with spans in place of tokens, and the spans; marks: ids of the sentinels."""
    noise, spans = (int(count[0]) for count in counts(np.array([len(ids)]), ratio, span, len(marks)))
    inside = _parts(noise, spans, rng)
    between = _parts(len(ids) - noise + 2, spans + 1, rng)  # the first and the last may be empty, the others not
    between[[0, -1]] -= 1
    source, target, place = [], [], 0
    for mark, kept, hidden in zip(marks, between, inside, strict=False):
        source += [ids[place : place + kept], [mark]]
        target += [[mark], ids[place + kept : place + kept + hidden]]
        place += int(kept + hidden)
    return Noised(np.concatenate([*source, ids[place:]]).astype(np.int64), np.concatenate(target).astype(np.int64))


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Random sizes of at least 1 with this sum, int64 [count]; each division of the total is as likely."""
    cuts = np.sort(rng.choice(total - 1, count - 1, replace=False)) + 1 if count > 1 else np.zeros(0, np.int64)
    return np.diff(cuts, prepend=0, append=total).astype(np.int64)
