"""Wraps the layers of a model: for activation checkpointing, for compilation and for sharding."""

import os
import shutil
import types

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from s2s.errors import UserError
from s2s.nn.elastic import elastic_modules


def layers(model: nn.Module, key: str) -> list[nn.Module]:
    """The layers of all stacks of a model.

    Args:
        model: An EncoderDecoder.
        key: The option that needs them, for the message.

    Raises:
        UserError: the model has no layers, or does not call them as modules, so that they cannot be wrapped.
    """
    modules = [layer for stack in model.stacks() for layer in stack]
    if not modules or any(type(layer).forward is nn.Module.forward for layer in modules):
        raise UserError(f"{key}: a {type(model).__name__} has no layers that are called as modules")
    return modules


def check(options, model: nn.Module, device: torch.device) -> None:
    """Check that the layers of a model can be wrapped as the options `train` say.

    Raises:
        UserError: there are no layers; or layers to compile change their shape; or there is no C++ compiler, which
            compilation on a CPU requires.
    """
    for key in ("checkpoint_activations", "compile"):
        if getattr(options, key):
            layers(model, f"train.{key}")
    if options.compile and elastic_modules(model):
        raise UserError("train.compile=true: each update uses a part of the model, which would be compiled anew for "
                        "each shape; leave it out")  # fmt: skip
    compiler = os.environ.get("CXX", "g++").split()[0]
    if options.compile and device.type == "cpu" and not shutil.which(compiler):
        raise UserError(f"train.compile=true: requires a C++ compiler on a CPU, and there is no {compiler}; set $CXX")


def checkpoint_activations(model: nn.Module) -> None:
    """Activation checkpointing (Chen et al. 2016): each layer keeps only its input for the backward pass, in which it
    is computed again with the same random numbers."""
    for layer in layers(model, "train.checkpoint_activations"):
        _wrap(layer, lambda forward: lambda *args: checkpoint(forward, *args, use_reentrant=False))


def compile_layers(model: nn.Module) -> None:
    """Compile the layers of a model for training, once for all layers of a kind and for any batch size. Dropout then
    draws other random numbers."""
    for layer in layers(model, "train.compile"):
        _wrap(layer, lambda forward: torch.compile(forward, dynamic=True))


def _wrap(layer: nn.Module, wrapper) -> None:
    """Replace `layer.forward` in training by `wrapper(forward)`. Names of parameters do not change, and copies of the
    layer are wrapped, too."""
    inner = layer.forward.__func__
    wrapped = wrapper(inner)

    def forward(self, *args):
        return (wrapped if self.training and torch.is_grad_enabled() else inner)(self, *args)

    layer.forward = types.MethodType(forward, layer)
