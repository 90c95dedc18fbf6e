"""Splits batches: one that does not fit into memory is split in two, repeatedly if necessary."""

from collections.abc import Callable
from typing import TypeVar

from s2s.data.batch import Batch
from s2s.device import free
from s2s.errors import Failure

Result = TypeVar("Result")
PIECE = {"tokens": 2048, "frames": 8192}  # maximum number of positions without padding of a side of a piece


class OutOfMemory(Failure):
    """A batch does not fit into memory.

    Attributes:
        batch: The batch.
    """

    def __init__(self, message: str, batch: Batch):
        super().__init__(message)
        self.batch = batch


def pieces(batch: Batch) -> list[Batch]:
    """Halve a batch (on the host) until each piece has at most PIECE positions on each side, or one example."""
    has_frames = any(source.values.is_floating_point() for source in batch.sources)
    most = PIECE["frames" if has_frames else "tokens"]
    halves = batch.halves() if max(batch.counts.source, batch.counts.target) > most else None
    return [batch] if halves is None else [piece for half in halves for piece in pieces(half)]


def split_to_fit(
    compute: Callable[[list[Batch]], Result], batches: list[Batch], report: Callable[[Batch], None]
) -> Result:
    """The result of `compute(batches)`. If it raises OutOfMemory, it is called again with that batch split in two.

    Args:
        compute: A function without memory of earlier calls.
        batches: Its first argument.
        report: Called with each batch that is split.

    Raises:
        OutOfMemory: a batch of a single example does not fit.
    """
    while True:
        try:
            return compute(batches)
        except OutOfMemory as error:
            failed, halves = error.batch, error.batch.halves()
            if halves is None:
                raise
        free()  # here, since the error has kept the frames of the computation, and these their tensors
        report(failed)
        at = next(i for i, batch in enumerate(batches) if batch is failed)
        batches = [*batches[:at], *halves, *batches[at + 1 :]]


def shape(batch: Batch) -> str:
    """The size of a batch, as text."""
    sources = " + ".join(str(source.values.size(1)) for source in batch.sources)
    return f"{len(batch.ids)} sentences x {sources} source x {batch.target.size(1)} target positions"


def too_large(batch: Batch, coupled: str | None) -> str:
    """The message for a batch that does not fit into memory; coupled: name of a term because of which it is whole."""
    remedy = "data.batch_tokens" if len(batch.ids) > 1 else "data.max_length"
    message = f"a batch of {shape(batch)} does not fit into memory; start a new run with a lower {remedy}, or a "
    message += "smaller model"
    if coupled:
        message += f"; it is not split, because the term {coupled} compares the examples of a batch"
    return message
