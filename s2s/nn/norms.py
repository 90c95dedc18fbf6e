"""Norms of the blocks of a layer."""

from torch import nn

NORMS = ("layer", "rms")


def norm_of(kind: str, width: int) -> nn.Module:
    """A norm over the last dimension, D.

    Args:
        kind: `layer`, LayerNorm; or `rms`, which divides by the root mean square and has no bias (Zhang and Sennrich
            2019).
        width: D.
    """
    return nn.RMSNorm(width, eps=1e-6) if kind == "rms" else nn.LayerNorm(width)


def set_epsilon(model: nn.Module, epsilon: float) -> None:
    """Set what all norms of a model add to the variance."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.eps = epsilon
