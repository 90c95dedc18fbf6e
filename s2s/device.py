"""Choice of the device, and detection of out-of-memory errors."""

import gc
import re

import torch

from s2s.errors import Failure, UserError

# Messages of torch, cuBLAS, cuDNN and NCCL; cuDNN has one for convolutions without an algorithm that fits.
SHORT = re.compile(r"can't allocate memory|out of memory|_ALLOC(ATION)?_FAILED|"
                   r"unable to find (an engine|a valid cuDNN algorithm)", re.IGNORECASE)  # fmt: skip


def choose_device(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda`, or `auto` (a GPU if there is one). Raises UserError if there is no GPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU is available to torch; use device=cpu")
    return torch.device(name)


def free() -> None:
    """Return unused memory to the system."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing without a GPU


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is short. For the CPU and for libraries, torch has no error type of its
    own."""
    cause = error.__cause__ if isinstance(error, Failure) else error
    if isinstance(cause, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(cause, RuntimeError) and SHORT.search(str(cause)) is not None
