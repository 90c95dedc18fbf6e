"""Sequence-level distillation during training: the model learns to write what its teachers write.

Paper: Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016, https://arxiv.org/abs/1606.07947.

Before each update the teachers decode its sources, by `criterion.sequence_distillation.decode` (all options of
s2s-generate). The term is the label-smoothed cross-entropy of the model on what they write, [B, T'], by tokens of it.
The sources are those of the batch, with all random changes, so that the teacher's text is new where its source is new.
With `closest` the text is the one of the `n_best` that is most like the target by this metric (the paper's sequence
interpolation).

Use: criterion=sequence_distillation criterion.sequence_distillation.teachers=[runs/teacher]

Left out: nothing of the method. The paper decodes the training data once, before training, which is cheaper where
sources never change: s2s-generate and s2s-preprocess do that.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s2s import registry
from s2s.config.schema import group, option
from s2s.criterions.forward import Run
from s2s.criterions.positions import Rows, losses
from s2s.criterions.sequences import ended, rewritten
from s2s.criterions.term import Ids, Term, TermConfig, Value, Writing, require_decoder
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.scoring import higher_is_better
from s2s.scoring.sentences import sentence_scores


@dataclasses.dataclass
class SequenceDistillationConfig(TermConfig):
    """Options of the term."""

    type: str = option("sequence_distillation", "component")
    teachers: list[str] = option([], "checkpoints or runs with the same vocabularies, which decode as an ensemble")
    decode: Any = group("decode", "default", "decoding of the teachers, with the options of s2s-generate")
    closest: str | None = option(
        None, "metric by which the text of the n_best that is most like the target is learned; null: the best text",
        registry.Names("metric"),
    )  # fmt: skip
    label_smoothing: float = option(
        0.1, "share of the target probability spread evenly over the vocabulary", at_least=0, below=1
    )


class SequenceDistillation(Term):
    """The cross-entropy of the teachers' texts."""

    Config = SequenceDistillationConfig
    trains = ("decoder",)
    only_in_training = True

    def __init__(self, config: SequenceDistillationConfig):
        super().__init__(config)
        if config.closest and config.decode.n_best == 1:
            raise UserError(f"criterion.{config.type}.closest={config.closest}: chooses one of several texts; set "
                            f"criterion.{config.type}.decode.n_best")  # fmt: skip
        self.scores = sentence_scores(config.closest) if config.closest else None

    @property
    def checkpoints(self) -> list[str]:
        """As in Term."""
        return self.config.teachers

    def check(self, model: EncoderDecoder) -> None:
        """Check that there are teachers, and a decoder. Raises UserError."""
        if not self.config.teachers:
            raise UserError(f"criterion.{self.name}.teachers: requires at least one checkpoint")
        require_decoder(self.name, model)

    def count(self, batch: Batch) -> int:
        """Tokens of the teachers' texts, EOS included; 0 in validation, which has none."""
        lengths = batch.columns.get(f"{self.name}.lengths")
        return 0 if lengths is None else int(lengths.sum())

    def writings(self) -> list[Writing]:
        """The teachers' texts."""
        return [Writing(self.config.decode, self.teachers)]

    def written(self, batch: Batch, texts: list[list[list[Ids]]], text: Callable[[int, Ids], str]) -> dict[str, Tensor]:
        """The chosen text of each example."""
        (several,) = texts
        chosen = [n_best[0] for n_best in several]
        if self.scores:
            sign = 1 if higher_is_better(self.config.closest) else -1
            for row, (n_best, target) in enumerate(zip(several, batch.target.tolist(), strict=True)):
                reference = text(row, target[: int(batch.target_lengths[row]) - 1])
                values = self.scores([text(row, ids) for ids in n_best], [reference] * len(n_best))
                chosen[row] = max(zip(values, n_best, strict=True), key=lambda pair: sign * pair[0])[1]
        columns = ended([[ids] for ids in chosen])
        return {f"{self.name}.{name}": value for name, value in columns.items()}

    def __call__(self, run: Run) -> Value:
        """As in Term."""
        ids, lengths = (run.batch.columns[f"{self.name}.{name}"][:, 0] for name in ("ids", "lengths"))
        shown = torch.cat([run.batch.decoder_input[:, :1], ids[:, :-1]], 1)
        other = rewritten(run, shown, ids, lengths, int(lengths.sum()))
        loss, *_ = losses(Rows([other], [other.output]), other.target, self.config.label_smoothing, 1.0)
        return Value(loss)
