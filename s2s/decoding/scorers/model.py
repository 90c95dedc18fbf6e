"""Scores the next token by one model. A scorer keeps the model's state, and has the methods of a DecoderState.

Shapes: B sentences, K rows per sentence, R = B*K rows, V vocabulary.
"""

import torch
from torch import Tensor, nn

from s2s.backends.prepacked import rows_of
from s2s.backends.prepare import is_native
from s2s.data.batch import Inputs
from s2s.decoding.hypothesis import NEVER
from s2s.models.contract import DecoderState, Memory
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.text.vocabulary import EOS


class ModelScorer:
    """The scorer of one model.

    Args:
        model: In evaluation mode, perhaps prepacked.
        raw_output: Its output layer before it was prepacked; `narrow` takes rows of it.
        temperature: Divisor of the logits.
        eos_scale: Factor of the log-probability of EOS, applied after the temperature.

    Attributes:
        partial: Scorers of candidates: there are none.
        falls: Whether scores can only fall: true, a log-probability is never above 0.
    """

    partial = ()
    falls = True

    def __init__(self, model: EncoderDecoder, raw_output: nn.Linear | None = None, temperature: float = 1.0,
                 eos_scale: float = 1.0):  # fmt: skip
        self.model, self.raw_output, self.state = model, raw_output, None
        self.temperature, self.eos_scale = temperature, eos_scale
        self.native = is_native(model)
        reader = getattr(model, "reader", None)
        self.reader = reader if reader is not None and reader.reads(model) else None
        self.max_length = model.max_length
        self.rows, self.output = None, {}

    def narrow(self, symbols: Tensor | None, mask: Tensor) -> None:
        """Compute logits of some symbols only.

        Args:
            symbols: [V'] int64, the symbols; None: as before.
            mask: [B, 1, V'], added to the logits: -inf for symbols that are not allowed in a sentence. They do not
                count in its normaliser.
        """
        if symbols is not None:
            self.rows = rows_of(self.model.output, self.raw_output, symbols)
        rows = self.rows
        self.output = {"output": lambda states: rows(states).add_(mask)}

    def prepare(self, inputs: Inputs, rows: int) -> DecoderState:
        """Encode sentences; `admit` takes the result. rows: K."""
        if self.reader is not None:
            return self.reader(inputs, rows)
        return self.start(self.encode(inputs), rows)

    def encode(self, inputs: Inputs) -> list[Memory]:
        """Encode sentences; returns the memory of each model."""
        return [self.model.encode(*inputs)]

    def start(self, memories: list[Memory], rows: int) -> DecoderState:
        """As `prepare`, for encoded sentences."""
        return self.model.start(memories[0], rows)

    def admit(self, slots: Tensor, prepared: DecoderState, which: Tensor, size: int) -> None:
        """Put the prepared sentences `which` into these slots; both [n] int64. There are `size` slots in all."""
        if self.state is None:
            self.state = prepared.empty(size)
        self.state.admit(slots, prepared, which)

    def step(self, tokens: Tensor, live: Tensor | None = None, fused: bool = False) -> tuple[Tensor, Tensor | None]:
        """Advance every row by one token.

        Args:
            tokens: [R] int64.
            live: [B, K] scores of the rows, for a native scorer. Nothing is computed for rows of score -inf; their
                logits may be any finite numbers.
            fused: Only with `live`: the chooser computes the log-normaliser and scales EOS itself.

        Returns:
            Logits [R, V], in fp32 (fp64 for an fp64 model), which the caller may change; and their log-normaliser
            [R, 1], or None if `fused`. Log-probabilities are the difference of the two. The caller computes it, because
            it needs only a few of them.
        """
        scores = {} if live is None else {"scores": live}
        logits = self._cooled(self.model.step(tokens, self.state, **self.output, **scores))
        if fused:
            return logits, None
        normalizer = log_normalizer(logits)
        if self.eos_scale != 1:
            logits[:, EOS] = torch.lerp(normalizer[:, 0], logits[:, EOS], self.eos_scale)
        return logits, normalizer

    def _cooled(self, logits: Tensor) -> Tensor:
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits if self.temperature == 1 else logits / self.temperature

    def score(self, inputs: Inputs, decoder_input: Tensor, target: Tensor) -> Tensor:
        """Log-probabilities [B, T] of given targets by teacher forcing; decoder_input and target: [B, T] int64."""
        return self.score_of(self.encode(inputs), decoder_input, target)

    def score_of(self, memories: list[Memory], decoder_input: Tensor, target: Tensor) -> Tensor:
        """As `score`, for encoded sentences."""
        logits = self._logits(memories, decoder_input)
        values = (pick_targets(logits, target) - log_normalizer(logits)).squeeze(2)
        return scaled(values, target, self.eos_scale)

    def log_probabilities(self, memories: list[Memory], decoder_input: Tensor) -> Tensor:
        """Log-probabilities of every next token by teacher forcing, [B, T, V]; decoder_input: [B, T] int64."""
        logits = self._logits(memories, decoder_input)
        return logits - log_normalizer(logits)

    def _logits(self, memories: list[Memory], decoder_input: Tensor) -> Tensor:
        return self._cooled(self.model.decode(memories[0], decoder_input).logits())

    def reorder(self, parents: Tensor) -> None:
        """Row r continues row parents[r]; parents: [R] int64."""
        self.state.reorder(parents)

    def free(self, slots: Tensor) -> None:
        """Mark these slots as free."""
        self.state.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones."""
        self.state.release(keep, slots)

    def close(self) -> None:
        """Forget all sentences."""
        self.state = self.rows = None
        self.output = {}

    @property
    def nbytes(self) -> int:
        return self.state.nbytes


def scaled(values: Tensor, target: Tensor, eos_scale: float) -> Tensor:
    """Log-probabilities of target tokens, with those of EOS multiplied by eos_scale."""
    return values if eos_scale == 1 else torch.where(target == EOS, eos_scale * values, values)


def pick_targets(logits: Tensor, target: Tensor) -> Tensor:
    """The logits of targets, [B, T, 1]; -inf for a symbol outside of the output, which may be as wide as the sources.

    Args:
        logits: [B, T, V].
        target: [B, T] int64.
    """
    width = logits.size(2)
    if int(target.max()) < width:
        return logits.gather(2, target[:, :, None])
    values = logits.gather(2, target.clamp(max=width - 1)[:, :, None])
    return values.masked_fill((target >= width)[:, :, None], NEVER)


def log_normalizer(logits: Tensor) -> Tensor:
    """logsumexp over the last dimension, which is kept, computed from the largest probability: log Z = max - log p_max.

    This is faster: PyTorch's softmax is one fused pass, its logsumexp several.
    """
    return logits.amax(dim=-1, keepdim=True) - logits.softmax(dim=-1).amax(dim=-1, keepdim=True).log()
