"""Checkpoints of PyTorch that hold options beside their weights. Their objects are read as plain dicts: a class of the
same name, which does nothing, stands for each class that may occur, and no other class is read."""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from s2s.errors import UserError
from s2s.interop.importing.imported import read_pickle

MOST_VALUES, MOST_DEPTH = 1 << 20, 100  # in what is not the weights; an object counts wherever it stands
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
    counter = itertools.count()
    try:
        return {key: value if key == "model" else plain(value, counter) for key, value in content.items()}
    except OverflowError as error:
        raise UserError(f"{path}: damaged or hostile: beside its weights it has {error}") from error


def plain(value: Any, counter: Iterator[int], depth: int = 0) -> Any:
    """A value whose records are dicts.

    Args:
        value: The value.
        counter: Counts the values.
        depth: How many values stand around it.

    Raises:
        OverflowError: there are more than MOST_VALUES values, or more than MOST_DEPTH in each other.
    """
    if next(counter) >= MOST_VALUES:
        raise OverflowError(f"more than {MOST_VALUES:,} values")
    if depth > MOST_DEPTH:
        raise OverflowError(f"more than {MOST_DEPTH} values in each other")
    if not isinstance(value, (Record, dict, list, tuple)):
        return value
    inside = functools.partial(plain, counter=counter, depth=depth + 1)
    if isinstance(value, Record):
        attributes = value.__dict__
        for inner in ("_content", "_val"):  # OmegaConf's containers and nodes
            if inner in attributes:
                return inside(attributes[inner])
        return {key: inside(each) for key, each in attributes.items() if not key.startswith("_") and key != "args"}
    if isinstance(value, dict):
        return {inside(key) if isinstance(key, Record) else key: inside(each) for key, each in value.items()}
    return [inside(each) for each in value]
