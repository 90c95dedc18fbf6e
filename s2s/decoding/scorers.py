"""What rates the next token: a model, or several together. A scorer carries its own state, with the state's verbs.

Shapes: B sentences, K rows a sentence, R = B*K rows, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from s2s.data.batch import Source
from s2s.decoding.backend import is_native
from s2s.decoding.packed import rows_of
from s2s.errors import UserError
from s2s.models.contract import DecoderState
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import EOS


class ModelScorer:
    """One model.

    Args:
        model: In evaluation mode, perhaps packed.
        whole: Its map to logits before it was packed, of which `narrow` takes rows.
        temperature: Logits are divided by it.
        eos_scale: The log-probability of EOS is multiplied by it, after that.
    """

    def __init__(self, model: EncoderDecoder, whole: nn.Linear | None = None, temperature: float = 1.0,
                 eos_scale: float = 1.0):  # fmt: skip
        self.model, self.whole, self.state = model, whole, None
        self.temperature, self.eos_scale = temperature, eos_scale
        self.native = is_native(model)
        self.max_length = model.max_length
        self.rows, self.output = None, {}

    def narrow(self, symbols: Tensor | None, mask: Tensor) -> None:
        """Rate no other symbols.

        Args:
            symbols: [V'] int64, those that logits are computed of; None: as before.
            mask: [B, 1, V'], -inf at those that a sentence must not have, which count nothing in its normaliser.
        """
        if symbols is not None:
            self.rows = rows_of(self.model.output, self.whole, symbols)
        rows = self.rows
        self.output = {"output": lambda states: rows(states).add_(mask)}

    def prepare(self, sources: tuple[Source, ...], rows: int) -> DecoderState:
        """Encode sentences, to be admitted later with `rows` rows each."""
        return self.model.start(self.model.encode(sources), rows)

    def admit(self, slots: Tensor, prepared: DecoderState, which: Tensor, size: int) -> None:
        """Sentences `which` of prepared ones take these slots, of `size` in all."""
        if self.state is None:
            self.state = prepared.empty(size)
        self.state.admit(slots, prepared, which)

    def step(self, tokens: Tensor, live: Tensor | None = None, fused: bool = False) -> tuple[Tensor, Tensor | None]:
        """Advance every row by one token.

        Args:
            tokens: [R] int64.
            live: [B, K] scores of the rows, for a native scorer: nothing is computed for rows of score -inf, whose
                logits are any finite numbers.
            fused: With `live`, for a choice that finds the log-normaliser itself and scales EOS: it is None here.

        Returns:
            Logits [R, V], the caller's to change, in fp32 (fp64 for an fp64 model), and their log-normaliser [R, 1]:
            the log-probabilities are the difference, which is left to the caller because it needs only a few.
        """
        scores = {} if live is None else {"scores": live}
        logits = self._cooled(self.model.step(tokens, self.state, **self.output, **scores))
        if fused:
            return logits, None
        normalizer = _log_normalizer(logits)
        if self.eos_scale != 1:
            logits[:, EOS] = torch.lerp(normalizer[:, 0], logits[:, EOS], self.eos_scale)
        return logits, normalizer

    def _cooled(self, logits: Tensor) -> Tensor:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits if self.temperature == 1 else logits / self.temperature

    def score(self, sources: tuple[Source, ...], decoder_input: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities [B, T] of given targets by teacher forcing; decoder_input and target: [B, T] int64."""
        logits = self._logits(sources, decoder_input)
        values = (logits.gather(2, target[:, :, None]) - _log_normalizer(logits)).squeeze(2)
        return _scaled(values, target, self.eos_scale)

    def log_probabilities(self, sources: tuple[Source, ...], decoder_input: Tensor) -> Tensor:
        """Of every token after given targets, [B, T, V]; decoder_input: [B, T] int64."""
        logits = self._logits(sources, decoder_input)
        return logits - _log_normalizer(logits)

    def _logits(self, sources: tuple[Source, ...], decoder_input: Tensor) -> Tensor:
        return self._cooled(self.model.decode(self.model.encode(sources), decoder_input).logits())

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r]; parents: [R] int64."""
        self.state.reorder(parents)

    def free(self, slots: Tensor) -> None:
        """These slots are free."""
        self.state.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones; keep: [B'] int64."""
        self.state.release(keep, slots)

    def close(self) -> None:
        """Forget all sentences."""
        self.state = self.rows = None
        self.output = {}

    @property
    def nbytes(self) -> int:
        return self.state.nbytes


class EnsembleScorer:
    """The weighted average of the probabilities of several models, each with its own state.

    `linear`: sum of w p. `log_linear`: the product of p^w, normalised again. The weights w are made to sum to 1.

    Args:
        models: In evaluation mode, all of one target vocabulary.
        kind: `linear` or `log_linear`.
        weights: Of each model; empty: all the same.
        wholes: As ModelScorer's, of each.
        temperature: As ModelScorer's, of each.
        eos_scale: As ModelScorer's, of the average.

    Raises:
        UserError: vocabularies of different sizes, weights that are not one positive number for each model.
    """

    def __init__(self, models: list[EncoderDecoder], kind: str = "linear", weights: list[float] = (),
                 wholes: list[nn.Linear] | None = None, temperature: float = 1.0,
                 eos_scale: float = 1.0):  # fmt: skip
        sizes = [model.target_vocabulary_size for model in models]
        if len(set(sizes)) > 1:
            raise UserError(f"an ensemble needs models of one target vocabulary; theirs have {sizes} symbols")
        weights = list(weights) or [1.0] * len(models)
        if len(weights) != len(models) or not min(weights) > 0:
            raise UserError(f"decode.ensemble_weights={weights}: one positive number is needed for each of "
                            f"{len(models)} models")  # fmt: skip
        self.kind, self.weights = kind, [weight / sum(weights) for weight in weights]
        pairs = zip(models, wholes or [None] * len(models), strict=True)
        self.scorers, self.eos_scale = [ModelScorer(*pair, temperature) for pair in pairs], eos_scale
        self.native = False  # the average is not one of the kernels
        self.max_length = min((m.max_length for m in models if m.max_length is not None), default=None)

    def narrow(self, symbols: Tensor | None, mask: Tensor) -> None:
        for scorer in self.scorers:
            scorer.narrow(symbols, mask)

    def prepare(self, sources: tuple[Source, ...], rows: int) -> list[DecoderState]:
        return [scorer.prepare(sources, rows) for scorer in self.scorers]

    def admit(self, slots: Tensor, prepared: list[DecoderState], which: Tensor, size: int) -> None:
        for scorer, state in zip(self.scorers, prepared, strict=True):
            scorer.admit(slots, state, which, size)

    def step(self, tokens: Tensor, live: None = None, fused: bool = False) -> tuple[Tensor, Tensor]:
        """As ModelScorer.step; the logits are log-probabilities and the normaliser is 0."""
        parts = (scorer.step(tokens) for scorer in self.scorers)
        mean = self._mean([logits - normalizer for logits, normalizer in parts])
        mean[:, EOS] *= self.eos_scale
        return mean, mean.new_zeros(len(mean), 1)

    def _mean(self, log_probabilities: list[Tensor]) -> Tensor:
        """Logarithm of the average of distributions over the last dimension."""
        if self.kind == "log_linear":
            return sum(w * x for w, x in zip(self.weights, log_probabilities, strict=True)).log_softmax(dim=-1)
        parts = [x + math.log(w) for w, x in zip(self.weights, log_probabilities, strict=True)]
        return torch.stack(parts).logsumexp(dim=0)

    def score(self, sources: tuple[Source, ...], decoder_input: Tensor, target: Tensor) -> Tensor:
        mean = self._mean([scorer.log_probabilities(sources, decoder_input) for scorer in self.scorers])
        return _scaled(mean.gather(2, target[:, :, None]).squeeze(2), target, self.eos_scale)

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


def _scaled(values: Tensor, target: Tensor, eos_scale: float) -> Tensor:
    """Log-probabilities of the tokens of a target, with those of EOS scaled."""
    return values if eos_scale == 1 else torch.where(target == EOS, eos_scale * values, values)


def _log_normalizer(logits: Tensor) -> Tensor:
    """logsumexp over the last dimension, which is kept, from the largest probability: log Z = max - log p_max.

    PyTorch's softmax is one fused pass, its logsumexp several.
    """
    return logits.amax(dim=-1, keepdim=True) - logits.softmax(dim=-1).amax(dim=-1, keepdim=True).log()
