"""What a term of the loss is.

A term is a file of `s2s/criterions/terms/`, or a plug-in's (`s2s.term`). It reads what it needs of a `Run`, and says
what its sum is divided by, what it reports, and what it remembers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.positions import Chunked, Rows, losses
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder

COUNT = "count"  # of a metric: what the term's sum is divided by


@dataclasses.dataclass
class TermConfig:
    """Options of every term. A term's own config has `type` with its name for a default."""

    type: str = option("", "component")
    weight: float = option(1.0, "of this term in the loss", at_least=0)


class Value(NamedTuple):
    """A term's value on a batch.

    Attributes:
        sum: Scalar, summed over what the term counts, without its weight; it has the gradient.
        metrics: What `Term.metrics` names, and its divisors, as detached scalars, summed over the batch. That of the
            term's own name need not be among them: it is `sum`.
    """

    sum: Tensor
    metrics: dict[str, Tensor] = {}  # noqa: RUF012 (nobody writes to it)


class Term:
    """A term of the loss.

    The loss is the sum over terms of weight * sum / count, where sum and count are those of all batches of an update,
    on all processes: how an update is cut into batches changes nothing.

    Attributes:
        trains: What of a model it trains, of `decoder`, `ctc`, `ctc_layers` and `auxiliary_heads`. What no term trains
            is an error.
        only_in_training: Whether a validation leaves it out of the loss. It is called there all the same if it has
            metrics of a model that is not in training.
        couples_examples: Whether it compares examples of a batch, so that a batch must not be cut.
        passes: Passes over a batch that it reads in training. One that reads a single pass is called for each pass
            that another term asks for, and the mean counts.
        name: That of `criterion.terms`, and of its section of options.
        teachers: Models that it learns from, in evaluation mode, one for each of `checkpoints`.
    """

    Config: ClassVar[type]
    trains: tuple[str, ...] = ()
    only_in_training: bool = False
    couples_examples: bool = False
    passes: int = 1

    def __init__(self, config: Any):
        self.config, self.name = config, config.type
        self.teachers: list[EncoderDecoder] = []

    @property
    def weight(self) -> float:
        """Its factor in the loss, of the next batch."""
        return self.config.weight

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints or runs of its teachers, with the vocabularies of the model."""
        return []

    def check(self, model: EncoderDecoder) -> None:
        """Whether a model has what the term needs. Raises UserError."""

    def count(self, batch: Batch) -> int:
        """What its sum over a batch, on the host, is divided by: a number of target tokens, examples
        (`batch.counts.sentences`), source positions (`batch.counts.source`) or of anything. Those of pieces of a batch
        add up to that of the batch."""
        return batch.counts.target

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """Names of what it reports of a model in training or not, and what each is divided by: COUNT, another name of
        its values, or None, of a number that is reported as it is."""
        return {} if self.only_in_training and not model.training else {self.name: COUNT}

    def __call__(self, run: Run) -> Value:
        """Its value on a batch."""
        raise NotImplementedError

    # --- what it remembers -------------------------------------------------------------------------------------------

    def updated(self, update: int, values: dict[str, float]) -> None:
        """Learn what an update found: the term's metrics over all batches of all processes, each divided. It is called
        after each update that changed weights, with the same values in all processes."""

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run has to know: tensors, the same in all processes; a number is a tensor of no dimension."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state_dict` returned; the tensors are on the host."""


class PositionTerm(Term):
    """A term of the model's distribution at each target position. In training they share the logits, a chunk at a
    time."""

    def check(self, model: EncoderDecoder) -> None:
        """It needs a decoder."""
        if not model.has_decoder:
            raise UserError(f"criterion.terms: {self.name} needs a decoder, and model.decoder.layers=0: there is none; "
                            "see criterion=ctc")  # fmt: skip

    def chunked(self, passes: Sequence[Run], weight: float) -> Chunked:
        """The term on a batch, to be called with each chunk of logits.

        Args:
            passes: Over the batch.
            weight: Its factor in the loss.
        """
        raise NotImplementedError

    def __call__(self, run: Run) -> Value:
        """The term alone."""
        passes = run.passes[: self.passes]
        rows = Rows(passes, [each.output for each in passes])
        loss, *_, value = losses(rows, run.target, 0.0, 0.0, [self.chunked(passes, 1.0)])
        return Value(loss, {self.name: value})
