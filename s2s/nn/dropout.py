"""Dropout that draws 16 random bits for each element, where PyTorch draws a double. Drawing takes most of the time on a
CPU."""

import torch
from torch import Tensor, nn


def dropout(x: Tensor, probability: float, training: bool) -> Tensor:
    """Zero each element with `probability` (to within 2^-16) and scale the others up by 1 / (1 - probability).

    The same as `torch.nn.functional.dropout`, with other random numbers; on a GPU it is that function.

    Args:
        x: Any shape, any floating type.
        probability: 0 <= p < 1.
        training: If false, or if p = 0, x is returned unchanged.
    """
    if not training or probability == 0.0:
        return x
    if x.device.type != "cpu":
        return nn.functional.dropout(x, probability)
    threshold = round(probability * 65536)
    bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    keep = (bits[: x.numel()] >= threshold - 32768).view(x.shape)
    return _Mask.apply(x, keep, 65536 / (65536 - threshold))


class _Mask(torch.autograd.Function):
    """x * keep * scale; saves one byte an element."""

    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return torch.ops.aten.native_dropout_backward(x, keep, scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (keep,) = ctx.saved_tensors
        return torch.ops.aten.native_dropout_backward(grad, keep, ctx.scale), None, None
