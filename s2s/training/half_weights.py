"""Training in bf16 with weights that are cast once an update.

Autocast casts the weights of a linear map in each forward pass that uses it, and their gradients in each backward pass,
each by an operator of its own: 264 of the 962 operators of an update of `transformer_base`. Here all weights are cast
together before an update, and the gradients of a layer together. The numbers are those of autocast, to the bit.

Only exact linear maps that are called as modules use these weights. Everything else is left to autocast: convolutions,
recurrent networks, weights that a module reads without a call, and weights that several modules share, whose gradients
would be added in another order.
"""

import collections
import contextlib
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

HALF = torch.bfloat16


def autocast(device: torch.device, precision: str):
    """A context of a precision, `fp32` or `bf16`."""
    return torch.autocast(device.type, HALF) if precision == "bf16" else contextlib.nullcontext()


class HalfWeights:
    """The weights of a model's linear maps in bf16.

    Args:
        model: An EncoderDecoder; None: weights are not cast, and the methods do nothing.

    Attributes:
        groups: For each layer of the model, and for the rest, the linear maps in it. The gradients of a group are cast
            together, so that those of the upper layers need not wait for the lower ones.
        copies: Parameter -> its copy in bf16.
    """

    def __init__(self, model: nn.Module | None):
        self.groups: list[list[nn.Linear]] = []
        self.copies: dict[nn.Parameter, Tensor] = {}
        if model is None:
            return
        layers = [layer for stack in model.stacks() for layer in stack]
        owners = collections.Counter(p for module in model.modules() for p in module.parameters(recurse=False))
        seen: set[nn.Module] = set()
        for part in (*layers, model):
            new = [module for module in part.modules() if type(module) is nn.Linear and module not in seen
                   and all(owners[p] == 1 for p in module.parameters())]  # fmt: skip
            seen.update(new)
            self.groups.append(new)
        self.copies = {
            p: torch.empty_like(p, dtype=HALF, requires_grad=False)
            for group in self.groups for module in group for p in module.parameters()
        }  # fmt: skip

    def cast(self) -> None:
        """Copy the present weights."""
        if self.copies:
            with torch.no_grad():
                torch._foreach_copy_(list(self.copies.values()), list(self.copies))

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """A context for one forward and backward pass under autocast, in which the linear maps use the copies."""
        half: dict[nn.Parameter | None, Tensor | None] = {None: None}
        for group in self.groups:
            parameters = dict.fromkeys(p for module in group for p in module.parameters() if p not in half)
            trained = [p for p in parameters if p.requires_grad]
            half |= {p: self.copies[p] for p in parameters if not p.requires_grad}
            half |= dict(zip(trained, _Cast.apply([self.copies[p] for p in trained], *trained), strict=True))
        modules = [module for group in self.groups for module in group]
        try:
            for module in modules:
                module.forward = functools.partial(_linear, module, half[module.weight], half[module.bias])
            yield
        finally:
            for module in modules:
                vars(module).pop("forward", None)


def _linear(module: nn.Linear, weight: Tensor, bias: Tensor | None, x: Tensor) -> Tensor:
    """`module(x)` under autocast, with weights that are in bf16."""
    if not torch.is_autocast_enabled(x.device.type):
        return nn.Linear.forward(module, x)
    return linear(x, weight, bias)


class _Cast(torch.autograd.Function):
    """Parameters as their copies in bf16; casts all their gradients together."""

    @staticmethod
    def forward(ctx, copies: list[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(copy.detach() for copy in copies)

    @staticmethod
    def backward(ctx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        half = [gradient for gradient in gradients if gradient is not None]
        full = [torch.empty_like(gradient, dtype=torch.float32) for gradient in half]
        if half:
            torch._foreach_copy_(full, half)
        rest = iter(full)
        return None, *(None if gradient is None else next(rest) for gradient in gradients)
