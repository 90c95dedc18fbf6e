"""Joint decoding with attention and CTC (Watanabe et al. 2017; S079): beam search in which both rate a token.

A token's score is (1 - w) * log p by the decoder + w * what CTC's prefix score gains by it, w being
`decode.ctc_weight`. CTC rates only the best candidates of each row by the decoder's opinion, and EOS. A hypothesis that
leaves out or repeats what was said has hardly an alignment, so CTC vetoes it; one of as many labels as there are frames
can only end.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, C candidates of a row.
"""

import torch
from torch import Tensor

from s2s.data.batch import Inputs
from s2s.decoding.config import DecodeConfig
from s2s.decoding.scorers.ctc_prefix import PrefixScores, token_log_probabilities
from s2s.decoding.scorers.model import ModelScorer
from s2s.errors import UserError
from s2s.models.contract import DecoderState, Memory
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import EOS

WEIGHT = 0.3  # of CTC in a model that has both, where nothing else is said


def ctc_weight(config: DecodeConfig, models: list[EncoderDecoder]) -> float:
    """`decode.ctc_weight` of these models. Raises UserError where they or the other options do not go with it."""
    w, (first, *others) = config.ctc_weight, models
    if w is None:
        w = 1.0 if not first.has_decoder else WEIGHT if first.has_ctc and not others else 0.0
    said = f"decode.ctc_weight={w:g}"
    if w < 1 and not all(model.has_decoder for model in models):
        raise UserError(f"{said}: a model without a decoder has CTC alone: decode.ctc_weight=1")
    if not w:
        return w
    if not all(model.has_ctc for model in models):
        raise UserError(f"{said}: the model has no CTC; leave decode.ctc_weight out")
    if others:
        raise UserError(f"{said}: CTC is for one model, not for an ensemble")
    search = {"decode.search": config.search != "beam", "decode.diverse_groups": config.diverse_groups > 1,
              "decode.shortlist": config.shortlist, "decode.speculative": config.speculative != "none"}  # fmt: skip
    alone = {"decode.no_repeat_ngram": config.no_repeat_ngram, "decode.forbidden": config.forbidden,
             "decode.allowed": config.allowed, "decode.coverage_penalty": config.coverage_penalty,
             "decode.auxiliary_weights": config.auxiliary_weights, "decode.temperature": config.temperature != 1,
             "decode.eos_scale": config.eos_scale != 1, "decode.length_penalty": config.length_penalty != 1,
             "decode.length_normalization": config.length_normalization != "power",
             "decode.min_length_a": config.min_length_a, "decode.min_length_b": config.min_length_b != 1,
             "decode.stopping": config.stopping != "first_finished"}  # fmt: skip
    for key, is_set in (search | alone if w == 1 else search).items():
        if is_set:
            raise UserError(f"{said}: CTC is for beam search, and does not go with {key}"
                            + (" if there is nothing else" if key in alone else "")
                            + ("; decode.ctc_weight=0 leaves it out" if first.has_decoder else ""))  # fmt: skip
    return w


class JointScorer(ModelScorer):
    """A model with both: the decoder rates every token, CTC some.

    Args:
        model: As ModelScorer's.
        weight: w.
        options: As ModelScorer's.

    Attributes:
        prefixes: CTC's part of the state.
    """

    def __init__(self, model: EncoderDecoder, weight: float, **options):
        super().__init__(model, **options)
        self.weight, self.prefixes = weight, None

    def prepare(self, inputs: Inputs, rows: int) -> tuple[DecoderState, PrefixScores]:
        """As ModelScorer."""
        memory = self.model.encode(*inputs)
        return self.model.start(memory, rows), self._prefixes(memory, rows)

    def _prefixes(self, memory: Memory, rows: int) -> PrefixScores:
        return PrefixScores(self.model.ctc_log_probabilities(memory), memory.lengths, rows, self.native)

    def admit(self, slots: Tensor, prepared: tuple[DecoderState, PrefixScores], which: Tensor, size: int) -> None:
        """As ModelScorer."""
        state, prefixes = prepared
        if self.prefixes is None:
            self.prefixes = prefixes.empty(size)
        self.prefixes.admit(slots, prefixes, which)
        super().admit(slots, state, which, size)

    def score(self, inputs: Inputs, decoder_input: Tensor, target: Tensor) -> Tensor:
        """As ModelScorer."""
        values = super().score(inputs, decoder_input, target)
        targets = [[row[: row.index(EOS)]] for row in target.tolist()]
        by_ctc = token_log_probabilities(self._prefixes(self.model.encode(*inputs), 1), targets)
        mixed = (1 - self.weight) * values
        for row, (each,) in zip(mixed, by_ctc, strict=True):
            row[: len(each)] += self.weight * torch.tensor(each, dtype=row.dtype, device=row.device)
        return mixed

    def release(self, keep: Tensor, slots: int) -> None:
        super().release(keep, slots)
        self.prefixes.release(keep, slots)

    def close(self) -> None:
        super().close()
        self.prefixes = None

    @property
    def nbytes(self) -> int:
        return super().nbytes + self.prefixes.nbytes
