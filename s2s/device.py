"""Where tensors are, and when its memory is short."""

import gc
import re

import torch

from s2s.errors import Failure, UserError

# What torch, cuBLAS, cuDNN and NCCL say; cuDNN also of a convolution for which no algorithm has room.
SHORT = re.compile(r"can't allocate memory|out of memory|_ALLOC(ATION)?_FAILED|"
                   r"unable to find (an engine|a valid cuDNN algorithm)", re.IGNORECASE)  # fmt: skip


def choose_device(name: str) -> torch.device:
    """The device of a name; `auto` is a GPU where there is one. Raises UserError for one that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU is available to torch; use device=cpu")
    return torch.device(name)


def free() -> None:
    """Give back memory that nothing uses."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing without a GPU


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short; torch has no type of its own for that of a CPU and of libraries."""
    cause = error.__cause__ if isinstance(error, Failure) else error
    if isinstance(cause, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(cause, RuntimeError) and SHORT.search(str(cause)) is not None
