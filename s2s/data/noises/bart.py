"""BART: a text is restored from a noised copy of itself.

Paper: Lewis et al., "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation,
and Comprehension", ACL 2020, https://arxiv.org/abs/1910.13461.

The target is the text, and the source is the text after these steps, in this order. Sentences, which end with a token
`.`, `!` or `?`, are permuted. Spans of tokens are infilled: their lengths are drawn from a Poisson distribution until
they have `ratio` of the tokens, they are put at random places, and each becomes one symbol `<mask>`; a span of no
tokens adds a mask. `replace_length=-1` writes a mask for each token of a span, 0 none; a share `random` of the masks is
a random token instead. Tokens are deleted. The result is rotated to begin at a random token. The best noise in the
paper is infilling and permuted sentences, which is the default.

Use: task=denoising task.noise=bart task.noise.ratio=0.3

Left out: spans of whole words, inserted random tokens, and the small new source encoder that the paper puts before the
embeddings to translate from another language; uncertain: Poisson's mean 3 and the share 0.3 are those of fairseq's
examples. A source is never longer than its text: masks of no tokens that would make it so are dropped.
"""

import dataclasses

import numpy as np

from s2s.config.schema import option
from s2s.data.noises.noise import Noise, Noised
from s2s.text.vocabulary import MASK, Vocabulary

ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f", "<0x2E>", "<0x21>", "<0x3F>")  # tokens that end a sentence


@dataclasses.dataclass
class BartConfig:
    """Options of the noise."""

    type: str = option("bart", "component")
    permute_sentences: float = option(1.0, "share of the texts whose sentences are permuted", at_least=0, at_most=1)
    ratio: float = option(0.3, "share of the tokens in infilled spans", at_least=0, at_most=1)
    span: float = option(3.0, "mean length of a span, by a Poisson distribution", at_least=0.1)
    replace_length: int = option(1, "what a span becomes: 1: one mask, -1: a mask for each token, 0: nothing",
                                 at_least=-1, at_most=1)  # fmt: skip
    random: float = option(0.0, "share of the masks that are a random token instead", at_least=0, at_most=1)
    delete: float = option(0.0, "probability that a token is deleted", at_least=0, below=1)
    rotate: float = option(0.0, "share of the texts that are rotated", at_least=0, at_most=1)


class Bart(Noise):
    """Permutation of sentences, infilling, deletion, rotation."""

    Config = BartConfig

    def __init__(self, config: BartConfig, vocabulary: Vocabulary):
        super().__init__(config, vocabulary)
        self.mask = self.symbol(MASK)
        self.ends = np.array([symbol.replace("\u2581", "") in ENDS for symbol in vocabulary.symbols])

    def most(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As in Noise."""
        return lengths, lengths

    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> Noised:
        """As in Noise."""
        config, source = self.config, ids
        if rng.random() < config.permute_sentences:
            sentences = np.split(source, np.flatnonzero(self.ends[source[:-1]]) + 1)
            source = np.concatenate([sentences[place] for place in rng.permutation(len(sentences))])
        source = self._infilled(source, rng)
        if config.delete:
            source = source[rng.random(len(source)) >= config.delete]
        if len(source) and rng.random() < config.rotate:
            source = np.roll(source, -int(rng.integers(len(source))))
        return Noised(source, ids)

    def _infilled(self, ids: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A text with spans in place of some tokens."""
        config, spans, wanted = self.config, [], round(self.config.ratio * len(ids))
        while wanted:
            spans.append(min(int(rng.poisson(config.span)), wanted))
            wanted -= spans[-1]
        if not spans:
            return ids
        kept = len(ids) - sum(spans)
        pieces = np.concatenate([np.full(kept, -1), spans])  # -1: a token that stays
        rng.shuffle(pieces)
        made, place = [], 0
        room = sum(spans) - sum(length > 0 for length in spans)  # masks of no tokens that a source may have
        for piece in pieces.tolist():
            if piece < 0:
                made.append(int(ids[place]))
            elif piece or room > 0:
                room -= piece == 0
                made += [self._mask(rng)] * {1: 1, 0: 0, -1: piece}[config.replace_length]
            place += abs(piece)
        return np.array(made, np.int64)

    def _mask(self, rng: np.random.Generator) -> int:
        """A mask, or a random token."""
        if self.config.random and rng.random() < self.config.random:
            return int(self.others(rng, 1)[0])
        return self.mask
