"""`decode.language_model`: what a language model thinks of hypotheses counts (shallow fusion, Gulcehre et al. 2015).

To every token's log-probability by the models, and to EOS's, `decode.language_model_weight` times that by the language
model is added; beside CTC alone to every label's that is added to a prefix. The sum is not normalised again.

Shapes: B sentences, K rows a sentence, R = B*K rows, V vocabulary, L labels of the longest prefix.
"""

import torch
from torch import Tensor

from s2s.checkpoint.loading import load_model
from s2s.data.batch import Inputs
from s2s.decoding.ctc import BLANK
from s2s.decoding.scorers.ensemble import EnsembleScorer
from s2s.decoding.scorers.model import ModelScorer
from s2s.errors import UserError
from s2s.models.contract import DecoderState
from s2s.models.language_model import LanguageModel
from s2s.text.vocabulary import BOS


def load_language_model(path: str, task, device: torch.device) -> LanguageModel:
    """A checkpoint's language model. Raises UserError where it is none, or not of the task's target vocabulary."""
    model, its_task, _ = load_model(path, device)
    said = f"decode.language_model={path}"
    if not isinstance(model, LanguageModel):
        raise UserError(f"{said}: is no language model; s2s-train task=language_modeling makes one")
    mine, its = task.target_tokenizer.vocabulary, its_task.target_tokenizer.vocabulary
    if mine.digest != its.digest:
        raise UserError(f"{said}: its vocabulary of {len(its)} symbols is not the checkpoint's, of {len(mine)}; train "
                        "it on a store with the same target tokenizer")  # fmt: skip
    if its_task.target_transform.kind != task.target_transform.kind:
        raise UserError(f"{said}: was trained with data.target_transform={its_task.target_transform.kind}, the "
                        f"checkpoint with {task.target_transform.kind}")  # fmt: skip
    return model


class FusionScorer:
    """A scorer with a language model beside it.

    Args:
        scorer: Of the models.
        model: The language model, prepared for decoding.
        weight: Of the language model.
        share: What the caller multiplies the scores of `step` by: in joint decoding, 1 - decode.ctc_weight.
    """

    native = False  # the sum is not one of the kernels, its parts are

    def __init__(self, scorer: ModelScorer | EnsembleScorer, model: LanguageModel, weight: float, share: float):
        self.scorer, self.other, self.weight, self.share = scorer, ModelScorer(model), weight, share
        self.max_length = scorer.max_length

    def prepare(self, inputs: Inputs, rows: int) -> tuple[object, DecoderState]:
        return self.scorer.prepare(inputs, rows), self.other.prepare(inputs, rows)

    def admit(self, slots: Tensor, prepared: tuple[object, DecoderState], which: Tensor, size: int) -> None:
        for scorer, state in zip((self.scorer, self.other), prepared, strict=True):
            scorer.admit(slots, state, which, size)

    def step(self, tokens: Tensor, live: None = None, fused: bool = False) -> tuple[Tensor, Tensor]:
        """As ModelScorer.step; the logits are sums of log-probabilities and the normaliser is 0."""
        (logits, normalizer), (other, its_normalizer) = (scorer.step(tokens) for scorer in (self.scorer, self.other))
        other = other.sub_(its_normalizer).to(logits.dtype)
        logits = logits.sub_(normalizer).add_(other, alpha=self.weight / self.share)
        return logits, torch.zeros_like(normalizer)

    def score(self, inputs: Inputs, decoder_input: Tensor, target: Tensor) -> Tensor:
        """As ModelScorer.score."""
        mine, other = (scorer.score(inputs, decoder_input, target) for scorer in (self.scorer, self.other))
        return mine + self.weight * other

    def reorder(self, parents: Tensor) -> None:
        for scorer in (self.scorer, self.other):
            scorer.reorder(parents)

    def free(self, slots: Tensor) -> None:
        for scorer in (self.scorer, self.other):
            scorer.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        for scorer in (self.scorer, self.other):
            scorer.release(keep, slots)

    def close(self) -> None:
        for scorer in (self.scorer, self.other):
            scorer.close()

    @property
    def nbytes(self) -> int:
        return self.scorer.nbytes + self.other.nbytes


class PrefixBonus:
    """The `Bonus` of prefix beam search by a language model. A prefix that is new is read anew: few are at a frame.

    Args:
        model: The language model, prepared for decoding.
        weight: Of it.
        shape: B, K.
    """

    def __init__(self, model: LanguageModel, weight: float, shape: tuple[int, int]):
        self.model, self.weight = model, weight
        device = next(model.parameters()).device
        self.prefixes = torch.full((*shape, 1), BOS, device=device)  # [B, K, 1 + L], right-padded
        self.lengths = torch.ones(shape, dtype=torch.int64, device=device)
        self.table = self._read(self.prefixes[:1, 0], self.lengths[:1, 0]).expand(*shape, -1)  # [B, K, V]

    def _read(self, prefixes: Tensor, lengths: Tensor) -> Tensor:
        """Weighted log-probabilities [n, V] after prefixes [n, 1 + L] of these lengths, BOS among them."""
        output = self.model.decode(None, prefixes)
        last = output.states[torch.arange(len(prefixes), device=prefixes.device), lengths - 1]
        logits = output.output(last)
        return self.weight * logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=1)

    def __call__(self, parents: Tensor, labels: Tensor, sentences: int) -> Tensor:
        rows = parents[:, :, None]
        self.lengths = self.lengths[:sentences].gather(1, parents)
        self.prefixes = self.prefixes[:sentences].gather(1, rows.expand(-1, -1, self.prefixes.size(2)))
        self.table = self.table[:sentences].gather(1, rows.expand(-1, -1, self.table.size(2)))
        if (new := labels != BLANK).any():
            if int(self.lengths[new].max()) == self.prefixes.size(2):
                self.prefixes = torch.nn.functional.pad(self.prefixes, (0, 1))
            self.prefixes[new] = self.prefixes[new].scatter(1, self.lengths[new][:, None], labels[new][:, None])
            self.lengths += new
            lengths = self.lengths[new]
            self.table[new] = self._read(self.prefixes[new][:, : int(lengths.max())], lengths).to(self.table.dtype)
        return self.table
