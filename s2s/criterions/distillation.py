"""Word-level knowledge distillation: a model learns the distributions of its teachers beside the targets."""

import dataclasses

import torch
from torch import Tensor

from s2s.config.schema import option
from s2s.criterions.cross_entropy import CrossEntropy, CrossEntropyConfig, Term, last_states
from s2s.data.batch import Batch
from s2s.models.contract import DecoderOutput
from s2s.models.encoder_decoder import EncoderDecoder


@dataclasses.dataclass
class DistillationConfig(CrossEntropyConfig):
    """Options of distillation, beside those of the cross-entropy."""

    type: str = option("distillation", "component")
    teachers: list[str] = option([], "checkpoints or runs with the same vocabularies; of several, the mean probability")
    weight: float = option(0.5, "of the teachers; the cross-entropy has the rest", at_least=0, at_most=1)
    temperature: float = option(1.0, "logits of teachers and model are divided by it; more: flatter", at_least=0.1)


class Distillation(CrossEntropy):
    """(1 - w) * cross-entropy + w * t^2 * the cross-entropy of the model against its teachers, both at temperature t.

    The teachers' distribution is the mean of theirs (Hinton et al. 2015; at each word of the given target: Kim and Rush
    2016). t^2 keeps the gradient's size.

    Attributes:
        teachers: Models in evaluation mode on the device of what is trained; they are loaded by who makes this.
    """

    Config = DistillationConfig

    def __init__(self, config: DistillationConfig):
        super().__init__(config)
        self.teachers: list[EncoderDecoder] = []

    def names(self, model: EncoderDecoder) -> list[str]:
        """As CrossEntropy.names."""
        return [*super().names(model), *(["distillation"] if model.training else [])]

    def terms(self, batch: Batch) -> tuple[list[Term], float]:
        """The teachers' term."""
        with torch.no_grad():
            taught = [last_states(teacher, batch) for teacher in self.teachers]
        return [Teaching(taught, self.config.weight, self.config.temperature)], 1 - self.config.weight


class Teaching:
    """A `Term`: the sum over the vocabulary of -q log p, where q is the mean of the teachers' distributions and p the
    model's, both at temperature t. Its weight is that of the options times t^2.

    Args:
        taught: Of each teacher the states at all P positions, [P, D], and its output.
        weight, temperature: As in the options.
    """

    name = "distillation"

    def __init__(self, taught: list[tuple[Tensor, DecoderOutput]], weight: float, temperature: float):
        self.weight, self.temperature = weight * temperature**2, temperature
        self.taught = [
            (states, output.weight.to(states.dtype), None if output.bias is None else output.bias.to(states.dtype))
            for states, output in taught
        ]

    def __call__(self, logits: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """As of Term."""
        t = self.temperature
        q = torch.zeros_like(logits[:, :1])  # [n, 1, V]: one for all passes
        for states, weight, bias in self.taught:
            theirs = torch.nn.functional.linear(states[first : first + len(logits)], weight, bias)
            q += theirs.to(logits.dtype).div_(t).softmax(1)[:, None]
        q /= len(self.taught)
        log = (logits / t).log_softmax(2)
        value = -(q * log).sum() / logits.size(1)
        return value, log.exp_().sub_(q).mul_(self.weight / t / logits.size(1))
