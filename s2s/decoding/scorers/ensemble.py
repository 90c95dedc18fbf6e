"""Ensembles: several models score the next token together.

Shapes: B sentences, K rows per sentence, R = B*K rows, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from s2s.data.batch import Inputs
from s2s.decoding.scorers.model import ModelScorer, pick_targets, scaled
from s2s.errors import UserError
from s2s.models.contract import DecoderState, Memory
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import EOS


class EnsembleScorer:
    """The weighted average of the probabilities of several models, each with its own state.

    `linear`: the sum of w p. `log_linear`: the product of p^w, normalised again. The weights w are scaled to sum to 1.

    Args:
        models: In evaluation mode, all with the same target vocabulary.
        kind: `linear` or `log_linear`.
        weights: One for each model; empty: equal weights.
        raw_outputs: As in ModelScorer, for each model.
        temperature: As in ModelScorer, for each model.
        eos_scale: As in ModelScorer, for the average.

    Raises:
        UserError: the vocabularies have different sizes, or `weights` is not one positive number for each model.
    """

    partial = ()
    falls = True

    def __init__(self, models: list[EncoderDecoder], kind: str = "linear", weights: list[float] = (),
                 raw_outputs: list[nn.Linear] | None = None, temperature: float = 1.0,
                 eos_scale: float = 1.0):  # fmt: skip
        sizes = [model.target_vocabulary_size for model in models]
        if len(set(sizes)) > 1:
            raise UserError(f"the models of an ensemble must share a target vocabulary; theirs have {sizes} symbols")
        weights = list(weights) or [1.0] * len(models)
        if len(weights) != len(models) or not min(weights) > 0:
            raise UserError(f"decode.ensemble_weights={weights}: requires one positive number for each of "
                            f"{len(models)} models")  # fmt: skip
        self.kind, self.weights = kind, [weight / sum(weights) for weight in weights]
        pairs = zip(models, raw_outputs or [None] * len(models), strict=True)
        self.scorers, self.eos_scale = [ModelScorer(*pair, temperature) for pair in pairs], eos_scale
        self.native = False  # there is no kernel for the average
        self.max_length = min((m.max_length for m in models if m.max_length is not None), default=None)

    def narrow(self, symbols: Tensor | None, mask: Tensor) -> None:
        for scorer in self.scorers:
            scorer.narrow(symbols, mask)

    def prepare(self, inputs: Inputs, rows: int) -> list[DecoderState]:
        return [scorer.prepare(inputs, rows) for scorer in self.scorers]

    def encode(self, inputs: Inputs) -> list[Memory]:
        return [memory for scorer in self.scorers for memory in scorer.encode(inputs)]

    def start(self, memories: list[Memory], rows: int) -> list[DecoderState]:
        return [scorer.start([memory], rows) for scorer, memory in zip(self.scorers, memories, strict=True)]

    def admit(self, slots: Tensor, prepared: list[DecoderState], which: Tensor, size: int) -> None:
        for scorer, state in zip(self.scorers, prepared, strict=True):
            scorer.admit(slots, state, which, size)

    def step(self, tokens: Tensor, live: None = None, fused: bool = False) -> tuple[Tensor, Tensor]:
        """As ModelScorer.step; the logits are log-probabilities and the normaliser is 0."""
        steps = (scorer.step(tokens) for scorer in self.scorers)
        mean = self._mean([logits - normalizer for logits, normalizer in steps])
        mean[:, EOS] *= self.eos_scale
        return mean, mean.new_zeros(len(mean), 1)

    def _mean(self, log_probabilities: list[Tensor]) -> Tensor:
        """Logarithm of the average of distributions over the last dimension."""
        if self.kind == "log_linear":
            return sum(w * x for w, x in zip(self.weights, log_probabilities, strict=True)).log_softmax(dim=-1)
        weighted = [x + math.log(w) for w, x in zip(self.weights, log_probabilities, strict=True)]
        return torch.stack(weighted).logsumexp(dim=0)

    def score(self, inputs: Inputs, decoder_input: Tensor, target: Tensor) -> Tensor:
        return self.score_of(self.encode(inputs), decoder_input, target)

    def score_of(self, memories: list[Memory], decoder_input: Tensor, target: Tensor) -> Tensor:
        pairs = zip(self.scorers, memories, strict=True)
        mean = self._mean([scorer.log_probabilities([memory], decoder_input) for scorer, memory in pairs])
        return scaled(pick_targets(mean, target).squeeze(2), target, self.eos_scale)

    def reorder(self, parents: Tensor) -> None:
        for scorer in self.scorers:
            scorer.reorder(parents)

    def free(self, slots: Tensor) -> None:
        for scorer in self.scorers:
            scorer.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        for scorer in self.scorers:
            scorer.release(keep, slots)

    def close(self) -> None:
        for scorer in self.scorers:
            scorer.close()

    @property
    def nbytes(self) -> int:
        return sum(scorer.nbytes for scorer in self.scorers)
