"""The model in a checkpoint; loading it runs no code of the checkpoint's."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from s2s import registry
from s2s.checkpoint import former, shapes
from s2s.checkpoint.names import current
from s2s.checkpoint.runs import CONFIG, WEIGHTS, read, verify
from s2s.config import schema
from s2s.config.documents import read_yaml
from s2s.errors import UserError

LISTED = 5  # tensors that a message lists
MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}
SPARE = 1 << 26  # numbers that a model may hold beside its weights: tables of positions and the like


def load_tensors(path: Path, device: torch.device | str = "cpu", states: bool = False) -> dict[str, Tensor]:
    """A safetensors file of parameters, or of an optimizer's `states`, by today's names. Raises UserError when it is
    damaged."""
    try:
        return {current(name, states): value for name, value in load_file(path, device=str(device)).items()}
    except (OSError, SafetensorError, RuntimeError) as error:  # torch's own, of a file that is gone
        raise UserError(f"{path}: damaged or unreadable: {error}") from error


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy weights into a model by name. Raises UserError listing names that do not fit."""
    parameters = dict(model.named_parameters())
    wrong = [f"{name} missing" for name in parameters.keys() - tensors.keys()]
    wrong += [f"{name} unknown" for name in tensors.keys() - parameters.keys()]
    wrong += [
        f"{name} is {list(tensors[name].shape)}, not {list(parameters[name].shape)}"
        for name in parameters.keys() & tensors.keys()
        if tensors[name].shape != parameters[name].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - LISTED:,} more" if len(wrong) > LISTED else ""
        raise UserError(f"{where}: does not fit the model: {'; '.join(sorted(wrong)[:LISTED])}{more}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(like(tensors[name], parameter))


def load_model(path: str, device: torch.device | str = "cpu") -> tuple:
    """A checkpoint's model, ready to decode.

    Args:
        path: As for `resolve`.
        device: Where the weights go.

    Returns:
        (model in evaluation mode, task, the config as a dict)

    Raises:
        UserError: missing or damaged files, or a config that this version does not know.
    """
    return read(path, lambda folder: load_folder(folder, device))


def load_folder(folder: Path, device: torch.device | str = "cpu") -> tuple:
    """As `load_model`, of a checkpoint's folder."""
    verify(folder, training=False)
    file, weights = folder / CONFIG, folder / WEIGHTS
    config = read_yaml(file, shapes.CONFIG)
    config["model"] = former.current(config["model"])
    try:
        task, kind = (registry.find(part, config[part]["type"]) for part in ("task", "model"))
        options = schema.load(kind.Config, config["model"], "model")
    except UserError as error:
        own = ",".join(config.get("plugins", []))  # nothing of them is loaded but by the user's word
        hint = f"; it was trained with plugins=[{own}], which this command needs too" if own else ""
        raise UserError(f"{file}: {error}{hint}") from error
    task = task.load(folder, config["data"]["target_transform"], config["task"])
    tensors = load_tensors(weights)
    with _AtMost(2 * sum(tensor.numel() for tensor in tensors.values()) + SPARE, file):
        model = task.model(options)
    load_weights(model, tensors, weights)
    return model.to(device).eval(), task, config


class _AtMost(TorchFunctionMode):
    """Ends the making of a model that its config makes far larger than its weights are, before it takes memory.

    Args:
        numbers: The most that all of its tensors may hold.
        where: The config, which is blamed with a UserError.
    """

    def __init__(self, numbers: int, where: Path):
        super().__init__()
        self.left, self.where = numbers, where

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in MAKERS:
            return function(*args, **(kwargs or {}))
        try:
            made = function(*args, **(kwargs or {}))
            self.left -= made.numel()
        except RuntimeError:  # there is not so much memory
            self.left = -1
        if self.left < 0:  # what is made is not filled yet: no memory is taken for it
            raise UserError(f"{self.where}: model: its sizes are not those of the weights")
        return made


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor, of which every rank has the same, on the device of another and spread as that one is."""
    tensor = tensor.to(other.device)
    if not hasattr(other, "full_tensor") or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements)
