"""Divergence: the loss has risen and does not fall again (s2s/checkpoint/progress.py)."""

from s2s.errors import Failure

GIVE_UP_AFTER = 10  # number of consecutive updates with a non-finite gradient
ROLLBACKS = 5  # maximum number of rollbacks; then the run stops


class Diverged(Failure):
    """Training has diverged."""


def not_finite(update: int, loss: float, norms: list[float], examples: list[int]) -> Diverged:
    """The error for GIVE_UP_AFTER updates in a row without a finite gradient.

    Args:
        update: Number of the last one.
        loss: Its loss.
        norms: Norms of the gradients of all of them.
        examples: Numbers of the examples of its batches.
    """
    shown = ", ".join(map(str, examples[:20])) + (f", ... ({len(examples)} in all)" if len(examples) > 20 else "")
    return Diverged(
        f"update {update}: {GIVE_UP_AFTER} updates in a row had a non-finite loss or gradient "
        f"(loss {loss}, gradient norms {', '.join(f'{n:.3g}' for n in norms)}); last batch: examples {shown}"
        "; try a lower optim.lr or a longer optim.warmup_updates; the last checkpoint is undamaged"
    )
