"""The layers of a model, as what computes twice to save memory, what is compiled, and what is sharded."""

import os
import shutil
import types

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from s2s.errors import UserError


def layers(model: nn.Module, key: str) -> list[nn.Module]:
    """The layers of all stacks of a model, which it calls as modules.

    Args:
        model: An EncoderDecoder.
        key: The option that they are needed for.

    Raises:
        UserError: it has none, or does not call them as modules, so that there is nothing to take hold of.
    """
    found = [layer for stack in model.stacks() for layer in stack]
    if not found or any(type(layer).forward is nn.Module.forward for layer in found):
        raise UserError(f"{key}: a {type(model).__name__} has no layers that are called as modules")
    return found


def check(options, model: nn.Module, device: torch.device) -> None:
    """Whether the layers of a model can be what the options of training, `train`, say.

    Raises:
        UserError: there are none; or, to compile on a CPU, there is no C++ compiler.
    """
    for key in ("checkpoint_activations", "compile"):
        if getattr(options, key):
            layers(model, f"train.{key}")
    compiler = os.environ.get("CXX", "g++").split()[0]
    if options.compile and device.type == "cpu" and not shutil.which(compiler):
        raise UserError(f"train.compile=true: needs a C++ compiler on a CPU, and there is no {compiler}; set $CXX")


def checkpoint_activations(model: nn.Module) -> None:
    """Have each layer of a model keep its input alone for the backward pass, in which it is computed a second time with
    the same random numbers (Chen et al. 2016)."""
    for layer in layers(model, "train.checkpoint_activations"):
        _wrap(layer, lambda forward: lambda *args: checkpoint(forward, *args, use_reentrant=False))


def compile_layers(model: nn.Module) -> None:
    """Have the layers of a model compiled for training, once for all layers of a kind and for any size of a batch.
    Dropout then has other random numbers."""
    for layer in layers(model, "train.compile"):
        _wrap(layer, lambda forward: torch.compile(forward, dynamic=True))


def _wrap(layer: nn.Module, wrapper) -> None:
    """Have `layer.forward`, while it trains, be what `wrapper` makes of it. Names of parameters stay as they are, and a
    copy of the layer has it too."""
    inner = layer.forward.__func__
    wrapped = wrapper(inner)

    def forward(self, *args):
        return (wrapped if self.training and torch.is_grad_enabled() else inner)(self, *args)

    layer.forward = types.MethodType(forward, layer)
