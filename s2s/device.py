"""Choice of the device, its numbers, and detection of out-of-memory errors."""

import contextlib
import gc
import os
import re
from collections.abc import Iterator
from typing import Any

import torch

from s2s.errors import Failure, UserError

# Messages of torch, cuBLAS, cuDNN and NCCL; cuDNN has one for convolutions without an algorithm that fits.
SHORT = re.compile(r"can't allocate memory|out of memory|_ALLOC(ATION)?_FAILED|"
                   r"unable to find (an engine|a valid cuDNN algorithm)", re.IGNORECASE)  # fmt: skip


def choose_device(name: str) -> torch.device:
    """The device of a name: `cpu`, `cuda`, or `auto` (a GPU if there is one). A GPU is set up as `set_up` says.

    Raises:
        UserError: there is no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        if not torch.cuda.is_available():
            raise UserError("device=cuda: no GPU is available to torch; use device=cpu")
        set_up()
    return torch.device(name)


def set_up() -> None:
    """Choose the kernels of GPUs for this process.

    - cuDNN's attention, which torch prefers on some GPUs, is not used: it plans anew for each shape, which takes longer
      than the attention itself, and texts have hundreds of shapes. FlashAttention and the memory-efficient kernel
      compute the same.
    - fp32 means fp32: neither products nor convolutions are rounded to TF32. For speed there are bf16 and fp16.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def half(device: torch.device) -> str:
    """The type in which a device computes fastest without loss that matters: `bf16` or `fp16` on a GPU, `fp32` on a
    CPU."""
    if device.type == "cpu":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


@contextlib.contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Inside, every operator gives the same bits for the same input, on a GPU too, if `wanted`; otherwise nothing
    changes. It must be entered before the first use of a GPU.

    Raises:
        UserError: an operator has no deterministic algorithm on this device.
    """
    if not wanted:
        yield
        return
    key, cudnn = "CUBLAS_WORKSPACE_CONFIG", torch.backends.cudnn
    fill: Any = torch.utils.deterministic
    before = os.environ.get(key), cudnn.deterministic, cudnn.benchmark, fill.fill_uninitialized_memory
    os.environ[key] = ":4096:8"  # cuBLAS then takes its workspace in the same order; read when it starts
    cudnn.deterministic, cudnn.benchmark, fill.fill_uninitialized_memory = True, False, False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic implementation" not in str(error):
            raise
        operator = str(error).split(" does not have", 1)[0]
        raise UserError(
            f"train.deterministic=true: {operator} has no deterministic algorithm on this device; leave out the "
            "option, or the part of the model or loss that needs it"
        ) from error
    finally:
        torch.use_deterministic_algorithms(False)
        value, cudnn.deterministic, cudnn.benchmark, fill.fill_uninitialized_memory = before
        os.environ.pop(key) if value is None else os.environ.update({key: value})


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
