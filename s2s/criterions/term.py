"""The interface of the terms of the loss.

A term is a file in `s2s/criterions/terms/`, or comes from a plug-in (`s2s.term`). It reads what it needs from a `Run`,
and declares the divisor of its sum, its metrics and its state.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from s2s.config.schema import option
from s2s.criterions.forward import Run
from s2s.criterions.positions import Chunked, Rows, losses
from s2s.data.batch import Batch
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder

Ids = list[int]
COUNT = "count"  # a metric's divisor: the same as that of the term's sum


@dataclasses.dataclass
class TermConfig:
    """Options of every term. The config of a term has its name as the default of `type`."""

    type: str = option("", "component")
    weight: float = option(1.0, "weight of this term in the loss", at_least=0)


class Value(NamedTuple):
    """The value of a term on a batch.

    Attributes:
        sum: Scalar with a gradient, summed over what the term counts, without its weight.
        metrics: The metrics that `Term.metrics` names, and their divisors: detached scalars, summed over the batch. The
            metric of the term's own name may be left out: it is `sum`.
    """

    sum: Tensor
    metrics: dict[str, Tensor] = {}  # noqa: RUF012 (it is never changed)


class Writing(NamedTuple):
    """What a model writes for the sources of an update, before it.

    Attributes:
        decode: Options of decoding: a DecodeConfig; or values of those that are not the defaults, in which case the
            limits of length are those of `decode`.
        teachers: The models, which decode together; none: the one that is trained, with its present weights.
        sources: Makes the sources of a batch (on the host): number of a row -> its source, as the task's
            `collate_sources` takes it. Other rows get no text. None: the sources of the batch.
    """

    decode: Any
    teachers: Sequence[EncoderDecoder] = ()
    sources: Callable[[Batch], Mapping[int, Any]] | None = None


class Term:
    """A term of the loss.

    The loss is the sum over terms of weight * sum / count, with the sums and counts of all batches of an update, on all
    processes. So it does not matter how an update is divided into batches.

    Attributes:
        trains: The parts of a model that it trains, of `decoder`, `ctc`, `ctc_layers` and `auxiliary_heads`. It is an
            error if a part of the model is trained by no term.
        only_in_training: Whether the validation loss leaves it out. It is still called in validation if it has metrics
            there.
        couples_examples: Whether it compares the examples of a batch, so that batches must not be split.
        passes: Number of passes over a batch that it reads in training. If another term reads more passes, a term of a
            single pass is called for each of them, and its values are averaged.
        columns: Columns of the store that it reads in `Batch.columns`.
        name: Its name in `criterion.terms`, and of its section of options.
        teachers: Models that it learns from, in evaluation mode, one for each of `checkpoints`.
    """

    Config: ClassVar[type]
    trains: tuple[str, ...] = ()
    only_in_training: bool = False
    couples_examples: bool = False
    passes: int = 1
    columns: tuple[str, ...] = ()

    def __init__(self, config: Any):
        self.config, self.name = config, config.type
        self.teachers: list[EncoderDecoder] = []

    @property
    def weight(self) -> float:
        """Its factor in the loss for the next batch."""
        return self.config.weight

    @property
    def checkpoints(self) -> list[str]:
        """Checkpoints or runs of its teachers; they must have the vocabularies of the model."""
        return []

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has what the term needs. Raises UserError."""

    def count(self, batch: Batch) -> int:
        """The divisor of its sum over a batch (on the host): the number of target tokens, of examples
        (`batch.counts.sentences`), of source positions (`batch.counts.source`) or of anything else. The counts of the
        pieces of a batch must add up to that of the batch."""
        return batch.counts.target

    def metrics(self, model: EncoderDecoder) -> dict[str, str | None]:
        """Name of each metric -> its divisor: COUNT, the name of another of its values, or None for a sum that is
        reported as it is. The metrics may depend on whether the model is in training mode."""
        return {} if self.only_in_training and not model.training else {self.name: COUNT}

    def __call__(self, run: Run) -> Value:
        """Compute its value on a batch."""
        raise NotImplementedError

    # --- what models write -------------------------------------------------------------------------------------------

    def prepare(self, task: Any) -> None:
        """Receive the task, before training, for a term with `writings`. Raises UserError if it does not fit."""

    def writings(self) -> list[Writing]:
        """What is written before each update for this term. Such a term is `only_in_training`."""
        return []

    def written(self, batch: Batch, texts: list[list[list[Ids]]], text: Callable[[int, Ids], str]) -> dict[str, Tensor]:
        """Make columns of what was written; in training, `Batch.columns` has them, and `count` may read them.

        Args:
            batch: On the host; its rows are not packed.
            texts: For each of `writings`, for each example, the ids of its hypotheses, without EOS; none for a row that
                has no source.
            text: Makes a text of the number of an example's row, and target ids without EOS.

        Returns:
            Tensors whose first dimension is the examples, by name.
        """
        raise NotImplementedError

    # --- state -------------------------------------------------------------------------------------------------------

    def updated(self, update: int, values: dict[str, float]) -> None:
        """Receive the metrics of an update. It is called after each update that changed weights.

        Args:
            update: Number of the update.
            values: Its metrics over all batches and processes, divided by their divisors; the same in all processes.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """The state that a resumed run needs: tensors (numbers as 0-d tensors), the same in all processes."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned; the tensors are on the host."""


def require_decoder(name: str, model: EncoderDecoder) -> None:
    """Raise UserError if the model of a term has no decoder."""
    if not model.has_decoder:
        raise UserError(f"criterion.terms: {name} requires a decoder, and the model has none (model.decoder.layers=0); "
                        "try criterion=ctc")  # fmt: skip


class PositionTerm(Term):
    """A term that reads the model's distribution at each target position. In training these terms share the logits,
    which are computed chunk by chunk."""

    def check(self, model: EncoderDecoder) -> None:
        """Check that the model has a decoder. Raises UserError."""
        require_decoder(self.name, model)

    def chunked(self, passes: Sequence[Run], weight: float) -> Chunked:
        """The loss of a batch, as a function that is called with each chunk of logits.

        Args:
            passes: The passes over the batch.
            weight: Its factor in the loss.
        """
        raise NotImplementedError

    def __call__(self, run: Run) -> Value:
        """Compute the term by itself, without sharing logits."""
        passes = run.passes[: self.passes]
        rows = Rows(passes, [each.output for each in passes])
        loss, *_, value = losses(rows, run.target, 0.0, 0.0, [self.chunked(passes, 1.0)])
        return Value(loss, {self.name: value})
