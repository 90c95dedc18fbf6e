"""Checkpoints of PyTorch that hold options beside their weights. Their objects are read as plain dicts: a class of the
same name, which does nothing, stands for each class that may occur, and no other class is read."""

import functools
from pathlib import Path
from typing import Any

import torch

from s2s.errors import UserError
from s2s.interop.importing.imported import read_pickle

# Classes that hold options or training state in checkpoints of fairseq, OpenNMT-py and JoeyNMT.
CLASSES = (
    "argparse.Namespace", "typing.Any", "collections.defaultdict", "collections.Counter",
    *(f"{module}.{name}" for module in ("builtins", "__builtin__")
      for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "object")),
    *(f"omegaconf.{name}" for name in (
        "dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata", "nodes.AnyNode",
        "nodes.StringNode", "nodes.IntegerNode", "nodes.FloatNode", "nodes.BooleanNode", "nodes.EnumNode")),
    *(f"fairseq.meters.{name}" for name in ("AverageMeter", "TimeMeter", "StopwatchMeter")),
    *(f"fairseq.logging.meters.{name}" for name in ("AverageMeter", "TimeMeter", "StopwatchMeter", "MetersDict")),
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype", "_codecs.encode",
)  # fmt: skip


class Record:
    """Stands for an object: keeps its attributes, and does nothing."""

    def __init__(self, *args: Any):
        self.__dict__["args"] = args

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update({key: value for key, value in part.items() if isinstance(key, str)})


@functools.cache
def _stand_ins() -> list[Any]:
    """One class for each of CLASSES, of its name."""
    return [type(name.rpartition(".")[2], (Record,), {"__module__": name.rpartition(".")[0]}) for name in CLASSES]


@functools.lru_cache(maxsize=1)
def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint: tensors, and the rest as plain values. Nothing in it is run.

    Raises:
        UserError: it is damaged, holds objects of another class than CLASSES, or is no dict.
    """
    with torch.serialization.safe_globals(_stand_ins()):
        content = read_pickle(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: is not a checkpoint, which has its parts by name")
    return {key: value if key == "model" else plain(value) for key, value in content.items()}


def plain(value: Any) -> Any:
    """A value whose records are dicts."""
    if isinstance(value, Record):
        attributes = value.__dict__
        for inner in ("_content", "_val"):  # OmegaConf's containers and nodes
            if inner in attributes:
                return plain(attributes[inner])
        return {key: plain(each) for key, each in attributes.items() if not key.startswith("_") and key != "args"}
    if isinstance(value, dict):
        return {plain(key) if isinstance(key, Record) else key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, (list, tuple)) else value
