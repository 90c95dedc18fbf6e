"""Runs a batch again in halves when memory is short."""

from collections.abc import Callable, Iterable, Iterator

from s2s.decoding.hypothesis import Hypothesis
from s2s.device import free, out_of_memory
from s2s.errors import Failure

Results = list[tuple[int, list[Hypothesis]]]


def fitting(run: Callable[[list], Iterable[Results]], items: dict[int, object]) -> Iterator[Results]:
    """The results of `run(items)`. When memory is short, the items without a result are run again in two halves, and so
    on. An item that does not fit into memory by itself fails.

    Args:
        run: Takes a list of items; yields lists of their numbers and hypotheses. It may be called several times.
        items: Number -> item.

    Yields:
        Lists of (number, hypotheses).
    """
    left = dict(items)
    try:
        for results in run(list(items.values())):
            for number, _ in results:
                del left[number]
            yield results
        return
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
    free()  # only now: the error, now gone, kept the frames of the computation, and these their tensors
    numbers = list(left)
    if len(numbers) == 1:
        yield [(numbers[0], [Hypothesis.failed(Failure("does not fit into memory by itself"))])]
        return
    for half in (numbers[: len(numbers) // 2], numbers[len(numbers) // 2 :]):
        yield from fitting(run, {number: left[number] for number in half})
