"""`decode.language_model`: shallow fusion with a language model (Gulcehre et al. 2015).

The score of each token, and of EOS, is its log-probability by the models + `decode.language_model_weight` * its
log-probability by the language model. With CTC alone, this is added for each label that extends a prefix. The sum is
not normalised again.

Shapes: B sentences, K rows per sentence, R = B*K rows, V vocabulary, L labels of the longest prefix.
"""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from s2s.checkpoint.loading import load_model
from s2s.config.schema import option
from s2s.data.batch import Inputs
from s2s.decoding.ctc import BLANK
from s2s.decoding.scorers.model import ModelScorer
from s2s.decoding.scorers.scorer import FullScorer
from s2s.errors import UserError
from s2s.models.contract import DecoderState, Memory
from s2s.models.language_model import LanguageModel
from s2s.text.vocabulary import BOS


def load_language_model(path: str, task, device: torch.device) -> LanguageModel:
    """Load a language model from a run or checkpoint.

    Raises:
        UserError: it is not a language model, it has another target vocabulary or target transform than the task, or
            it reads tags; or targets begin with symbols of the task.
    """
    setting = f"decode.language_model={path}"
    if getattr(task, "beginning", 0):
        key = f"task.target_tag={task.target_tag}" if task.target_tag else "task.target_prefix"
        raise UserError(f"{setting}: does not go with {key}: it would rate the symbol that targets begin with, which "
                        "it has not seen")  # fmt: skip
    model, its_task, _ = load_model(path, device)
    if not isinstance(model, LanguageModel):
        raise UserError(f"{setting}: is no language model; s2s-train task=language_modeling makes one")
    vocabulary, its_vocabulary = task.target_tokenizer.vocabulary, its_task.target_tokenizer.vocabulary
    if vocabulary.digest != its_vocabulary.digest:
        raise UserError(f"{setting}: its vocabulary of {len(its_vocabulary)} symbols differs from the checkpoint's of "
                        f"{len(vocabulary)}; train it on a store with the same target tokenizer")  # fmt: skip
    if its_task.tags:
        raise UserError(f"{setting}: reads the tags {', '.join(its_task.tags)}; use a language model without tags")
    if its_task.target_transform.config != task.target_transform.config:
        raise UserError(f"{setting}: was trained with data.target_transform={its_task.target_transform.kind}, the "
                        f"checkpoint with {task.target_transform.kind}")  # fmt: skip
    return model


@dataclasses.dataclass
class LanguageModelScorerConfig:
    """Options of fusion with a language model."""

    type: str = option("language_model", "component")
    run: str | None = option(None, "a run or checkpoint of task=language_modeling with the same target vocabulary")
    weight: float = option(
        0.3,
        "factor of the language model's log-probability, which is added to the score; negative: demote likely text",
        at_least=-1000,
        at_most=1000,
    )


class LanguageModelScorer(FullScorer):
    """A language model's log-probability of every token.

    A negative weight -l ranks hypotheses by log p(y|x) - l log p(y) (Li et al. 2016). Then a score may rise.

    Attributes:
        model: The language model, prepared for decoding.
    """

    Config = LanguageModelScorerConfig

    @classmethod
    def load(cls, config: LanguageModelScorerConfig, task, device: torch.device) -> LanguageModel:
        if config.run is None:
            raise UserError("language_model: run=CHECKPOINT is missing: a run or checkpoint of task=language_modeling")
        return load_language_model(config.run, task, device)

    def __init__(self, config: LanguageModelScorerConfig, loaded: LanguageModel, setting):
        super().__init__(config, loaded, setting)
        first = setting.models[0]
        if loaded.target_vocabulary_size != first.target_vocabulary_size:
            raise UserError(f"decode.language_model: has {loaded.target_vocabulary_size} symbols, "
                            f"the model {first.target_vocabulary_size}")  # fmt: skip
        self.weight, self.falls, self.model = config.weight, config.weight >= 0, setting.prepare(loaded)
        self.rater = ModelScorer(self.model)
        self.read: Tensor | None = None  # what it reads for each symbol: BOS for those that the models read first
        if setting.sides.firsts:
            self.read = torch.arange(loaded.target_vocabulary_size, device=setting.device)
            self.read[list(setting.sides.firsts)] = BOS

    def prepare(self, inputs: Inputs, memories: list[Memory], rows: int) -> DecoderState:
        return self.rater.prepare(inputs, rows)

    def step(self, tokens: Tensor) -> Tensor:
        logits, normalizer = self.rater.step(tokens if self.read is None else self.read[tokens])
        return logits.sub_(normalizer)

    def score(self, inputs: Inputs, memories: list[Memory], decoder_input: Tensor,
              target: Tensor) -> Tensor:  # fmt: skip
        return self.rater.score(inputs, decoder_input if self.read is None else self.read[decoder_input], target)

    def admit(self, slots: Tensor, prepared: DecoderState, which: Tensor, size: int) -> None:
        self.rater.admit(slots, prepared, which, size)

    def reorder(self, parents: Tensor) -> None:
        self.rater.reorder(parents)

    def free(self, slots: Tensor) -> None:
        self.rater.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        self.rater.release(keep, slots)

    def close(self) -> None:
        self.rater.close()

    @property
    def nbytes(self) -> int:
        return self.rater.nbytes


class PrefixBonus:
    """The `Bonus` of a language model in prefix beam search. New prefixes are read from the start: a frame has few.

    Args:
        model: The language model, prepared for decoding.
        weight: Weight of its log-probabilities.
        shape: (B, K).
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
        of = parents[:, :, None]
        self.lengths = self.lengths[:sentences].gather(1, parents)
        self.prefixes = self.prefixes[:sentences].gather(1, of.expand(-1, -1, self.prefixes.size(2)))
        self.table = self.table[:sentences].gather(1, of.expand(-1, -1, self.table.size(2)))
        new = labels != BLANK
        # The host waits for the device once a frame, here.
        grown, lengths = torch.stack([new.long(), self.lengths]).flatten(1).cpu().numpy()
        rows = np.flatnonzero(grown)
        if rows.size:
            longest = int(lengths[rows].max())
            if longest == self.prefixes.size(2):
                self.prefixes = torch.nn.functional.pad(self.prefixes, (0, 1))
            at = torch.from_numpy(rows).to(labels.device, non_blocking=True)
            prefixes, table = self.prefixes.view(-1, self.prefixes.size(2)), self.table.view(-1, self.table.size(2))
            prefixes[at, self.lengths.view(-1)[at]] = labels.flatten()[at]
            self.lengths += new
            table[at] = self._read(prefixes[at, : longest + 1], self.lengths.view(-1)[at]).to(table.dtype)
        return self.table
