"""Word-level knowledge distillation: the model learns the distributions of its teachers at each target position.

t^2 * the cross-entropy of the model against the mean of the teachers' distributions, both at temperature t (Hinton et
al. 2015; at each word of the given target: Kim and Rush 2016). t^2 keeps the gradient's size; what is reported is
without it. Outputs of any kind can teach, and learn.
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
    teachers: list[str] = option([], "checkpoints or runs with the same vocabularies; of several, the mean probability")
    temperature: float = option(1.0, "logits of teachers and model are divided by it; more: flatter", at_least=0.1)


class Distillation(PositionTerm):
    """The cross-entropy against the teachers."""

    Config = DistillationConfig
    trains = ("decoder",)
    only_in_training = True

    @property
    def checkpoints(self) -> list[str]:
        """As of Term."""
        return self.config.teachers

    def check(self, model: EncoderDecoder) -> None:
        """It needs teachers, and decoders."""
        super().check(model)
        if not self.config.teachers:
            raise UserError(f"criterion.{self.name}.teachers: distillation needs a checkpoint or several")
        for path, teacher in zip(self.checkpoints, self.teachers, strict=True):
            if not teacher.has_decoder:
                raise UserError(f"criterion.{self.name}.teachers: {path} has no decoder")

    def chunked(self, passes: Sequence[Run], weight: float) -> "Teaching":
        """As of PositionTerm."""
        with torch.no_grad():
            runs = [Run(teacher, passes[0].batch) for teacher in self.teachers]
            taught = [Rows([run], [run.output]) for run in runs]
        return Teaching(taught, weight, self.config.temperature)


class Teaching:
    """A `Chunked`: the sum over the vocabulary of -q log p, where q is the mean of the teachers' distributions and p
    the model's, both at temperature t. Its weight is that of the term times t^2.

    Args:
        taught: Of each teacher, what makes its logits.
        weight: Of the term.
        temperature: t.
    """

    def __init__(self, taught: list[Rows], weight: float, temperature: float):
        self.weight, self.temperature, self.taught = weight * temperature**2, temperature, taught

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """As of Chunked."""
        t = self.temperature
        q = torch.zeros_like(logits[:, :1])  # [n, 1, V]: one for all passes
        with torch.no_grad():
            for rows in self.taught:
                theirs = rows.logits(first, first + len(logits))
                q += theirs.to(logits.dtype).div(t).softmax(1)[:, None]
        q /= len(self.taught)
        log = (logits / t).log_softmax(2).clamp_min_(LEAST)
        value = -(q * log).sum() / logits.size(1)
        return value, log.exp_().sub_(q).mul_(self.weight / t / logits.size(1))
