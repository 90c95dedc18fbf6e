"""One model as what rates the next token. A scorer carries its own state, with the state's verbs.

Shapes: B sentences, K rows a sentence, R = B*K rows, V vocabulary.
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
    """One model.

    Args:
        model: In evaluation mode, perhaps prepacked.
        whole: Its map to logits before it was prepacked, of which `narrow` takes rows.
        temperature: Logits are divided by it.
        eos_scale: The log-probability of EOS is multiplied by it, after that.

    Attributes:
        partial: Scorers of candidates: there are none.
        falls: A log-probability is never above 0.
    """

    partial = ()
    falls = True

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

    def prepare(self, inputs: Inputs, rows: int) -> DecoderState:
        """Encode sentences, to be admitted later with `rows` rows each."""
        return self.start(self.encode(inputs), rows)

    def encode(self, inputs: Inputs) -> list[Memory]:
        """What the model knows of sentences."""
        return [self.model.encode(*inputs)]

    def start(self, memories: list[Memory], rows: int) -> DecoderState:
        """As `prepare`, of sentences that are encoded."""
        return self.model.start(memories[0], rows)

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
        """As `score`, of sentences that are encoded."""
        logits = self._logits(memories, decoder_input)
        values = (pick_targets(logits, target) - log_normalizer(logits)).squeeze(2)
        return scaled(values, target, self.eos_scale)

    def log_probabilities(self, memories: list[Memory], decoder_input: Tensor) -> Tensor:
        """Of every token after given targets, [B, T, V]; decoder_input: [B, T] int64."""
        logits = self._logits(memories, decoder_input)
        return logits - log_normalizer(logits)

    def _logits(self, memories: list[Memory], decoder_input: Tensor) -> Tensor:
        return self._cooled(self.model.decode(memories[0], decoder_input).logits())

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


def scaled(values: Tensor, target: Tensor, eos_scale: float) -> Tensor:
    """Log-probabilities of the tokens of a target, with those of EOS scaled."""
    return values if eos_scale == 1 else torch.where(target == EOS, eos_scale * values, values)


def pick_targets(logits: Tensor, target: Tensor) -> Tensor:
    """Values [B, T, 1] of targets [B, T] among [B, T, V]; -inf for a symbol that is beyond the output, which may be as
    wide as the sources."""
    width = logits.size(2)
    if int(target.max()) < width:
        return logits.gather(2, target[:, :, None])
    found = logits.gather(2, target.clamp(max=width - 1)[:, :, None])
    return found.masked_fill((target >= width)[:, :, None], NEVER)


def log_normalizer(logits: Tensor) -> Tensor:
    """logsumexp over the last dimension, which is kept, from the largest probability: log Z = max - log p_max.

    PyTorch's softmax is one fused pass, its logsumexp several.
    """
    return logits.amax(dim=-1, keepdim=True) - logits.softmax(dim=-1).amax(dim=-1, keepdim=True).log()
