"""Loads the model of a checkpoint. No code from the checkpoint is run."""

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

LISTED = 5  # maximum number of tensors that a message lists
MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.arange, torch.eye}
SPARE = 1 << 26  # elements that a model may have in addition to its weights, such as tables of positions


def load_tensors(path: Path, device: torch.device | str = "cpu", states: bool = False) -> dict[str, Tensor]:
    """Read a safetensors file of parameters, or of an optimizer's states; returns tensors by their present names.

    Args:
        path: The file.
        device: The device of the tensors.
        states: Whether it has states of an optimizer.

    Raises:
        UserError: the file is damaged or missing.
    """
    try:
        return {current(name, states): value for name, value in load_file(path, device=str(device)).items()}
    except (OSError, SafetensorError, RuntimeError) as error:  # torch's, if the file is missing
        raise UserError(f"{path}: damaged or unreadable: {error}") from error


def load_weights(model: nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy weights into a model by name. Raises UserError if names or shapes do not fit; the message lists them."""
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
    """Load the model of a checkpoint.

    Args:
        path: As in `resolve`.
        device: The device of the model.

    Returns:
        (model in evaluation mode, task, the config as a dict)

    Raises:
        UserError: files are missing or damaged, or this version does not know the config.
    """
    return read(path, lambda folder: load_folder(folder, device))


def load_folder(folder: Path, device: torch.device | str = "cpu") -> tuple:
    """As `load_model`, from the folder of a checkpoint."""
    verify(folder, training=False)
    file, weights = folder / CONFIG, folder / WEIGHTS
    config = read_yaml(file, shapes.CONFIG)
    config["model"] = former.current(config["model"])
    try:
        task, kind = (registry.find(section, config[section]["type"]) for section in ("task", "model"))
        options = schema.load(kind.Config, config["model"], "model")
    except UserError as error:
        own = ",".join(config.get("plugins", []))  # they are loaded only if the user names them
        hint = f"; it was trained with plugins=[{own}], which this command needs, too" if own else ""
        raise UserError(f"{file}: {error}{hint}") from error
    task = task.load(folder, config["data"]["target_transform"], config["task"])
    tensors = load_tensors(weights)
    with AtMost(2 * sum(tensor.numel() for tensor in tensors.values()) + SPARE, file):
        model = task.model(options)
    load_weights(model, tensors, weights)
    merged = model.merged()
    if merged is not model:
        config["model"]["adapter"] = None
    return merged.to(device).eval(), task, config


class AtMost(TorchFunctionMode):
    """Stops the construction of a model that would be far larger than its weights, before memory is allocated.

    Args:
        numbers: Maximum number of elements of all tensors.
        where: The config, for the message.
    """

    def __init__(self, numbers: int, where: Path):
        super().__init__()
        self.left, self.where = numbers, where

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function not in MAKERS:
            return function(*args, **(kwargs or {}))
        try:
            tensor = function(*args, **(kwargs or {}))
            self.left -= tensor.numel()
        except RuntimeError:  # not enough memory
            self.left = -1
        if self.left < 0:  # the tensor is not filled yet, so it takes no memory
            raise UserError(f"{self.where}: model: its sizes are not those of the weights")
        return tensor


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A tensor (complete, and the same on all ranks) on the device of `other`, and sharded as `other` is."""
    tensor = tensor.to(other.device)
    if not hasattr(other, "full_tensor") or tensor.shape != other.shape:
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, other.device_mesh, other.placements)
