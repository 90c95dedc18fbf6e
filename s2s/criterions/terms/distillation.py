"""Word-level knowledge distillation: the model learns the distributions of its teachers at each target position.

Paper: Kim and Rush, "Sequence-Level Knowledge Distillation", EMNLP 2016, https://arxiv.org/abs/1606.07947, after Hinton
et al., "Distilling the Knowledge in a Neural Network", 2015, https://arxiv.org/abs/1503.02531; from a decoder-only
teacher: Elfeki et al., "Return of the Encoder: Maximizing Parameter Efficiency for SLMs", 2025,
https://arxiv.org/abs/2501.16273.

The term is t^2 * the cross-entropy of the model against the mean of the teachers' distributions, both at temperature t,
at each token of the given target. t^2 keeps the size of the gradient; the reported metric is without it. Teachers and
model may have output layers of any kind. A teacher may be decoder-only (`model=decoder_only_tiny`): its logits are
those of the T target positions of the sequence [source; target], and belong to the T positions of the pupil's decoder.

Use: criterion=distillation `criterion.distillation.teachers=[RUN]` criterion.distillation.temperature=2

Left out: teachers with another vocabulary; uncertain: the direction of the divergence in the paper of 2025.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.positions import LEAST, Rows
from s2s.criterions.term import PositionTerm, TermConfig
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class DistillationConfig(TermConfig):
    """Options of distillation."""

    type: str = option("distillation", "component")
    teachers: list[str] = option(
        [], "checkpoints or runs with the same vocabularies; the probabilities of several are averaged"
    )
    temperature: float = option(
        1.0, "divisor of the logits of teachers and model; larger values: flatter distributions", at_least=0.1
    )


class Distillation(PositionTerm):
    """The cross-entropy against the teachers."""

    Config = DistillationConfig
    trains = ("decoder",)
    only_in_training = True

    @property
    def checkpoints(self) -> list[str]:
        """As in Term."""
        return self.config.teachers

    def check(self, model: EncoderDecoder) -> None:
        """Check that there are teachers, and that they and the model have decoders. Raises UserError."""
        super().check(model)
        if not self.config.teachers:
            raise UserError(f"criterion.{self.name}.teachers: requires at least one checkpoint")
        for path, teacher in zip(self.checkpoints, self.teachers, strict=True):
            if not teacher.has_decoder:
                raise UserError(f"criterion.{self.name}.teachers: {path} has no decoder")

    def chunked(self, passes: Sequence[Run], weight: float) -> "Teaching":
        """As in PositionTerm."""
        with torch.no_grad():
            runs = [Run(teacher, passes[0].batch) for teacher in self.teachers]
            teacher_rows = [Rows([run], [run.output]) for run in runs]
        return Teaching(teacher_rows, weight, self.config.temperature)


class Teaching:
    """A `Chunked` loss: the sum over the vocabulary of -q log p, q being the mean of the teachers' distributions and p
    the distribution of the model, both at temperature t.

    Args:
        taught: The rows of each teacher, which make its logits.
        weight: Weight of the term; the weight of this loss is weight * t^2.
        temperature: t.
    """

    def __init__(self, taught: list[Rows], weight: float, temperature: float):
        self.weight, self.temperature, self.taught = weight * temperature**2, temperature, taught

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """As in Chunked."""
        t = self.temperature
        q = torch.zeros_like(logits[:, :1])  # [n, 1, V], the same for all passes
        with torch.no_grad():
            for rows in self.taught:
                teacher_logits = rows.logits(first, first + len(logits))
                q += teacher_logits.to(logits.dtype).div(t).softmax(1)[:, None]
        q /= len(self.taught)
        log = (logits / t).log_softmax(2).clamp_min_(LEAST)
        value = -(q * log).sum() / logits.size(1)
        return value, log.exp_().sub_(q).mul_(self.weight / t / logits.size(1))
