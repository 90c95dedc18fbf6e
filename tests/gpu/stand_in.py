"""A stand-in for a GPU, on a machine that has none: tensors labelled `cuda:0` whose values are on the CPU.

    with gpu() as counts:
        x = torch.ones(3, device="cuda") + torch.ones(3)   # raises: two devices
        x.sum().item()                                     # counts.synchronizations is now 1

Inside `gpu`, everything that the host does is as it would be: the choice of the device, the copies to it and from it,
and the order of operators. So three things are seen without a GPU:

- an operator whose tensors are on different devices raises DeviceMismatch;
- how many operators are started, and where the host waits for the device or copies to it, are counted;
- results can be compared with those of the CPU, to the bit: random numbers are drawn as on the CPU.

What is not seen: the kernels of a GPU, and so their results, their speed and their memory. Attention counts as one
operator, with the preparation of a mask, and so do recurrent networks; CPU kernels give their values.

`torch.inference_mode` is `torch.no_grad` here, and backward passes run in the calling thread.
"""

import contextlib
import sys
from unittest import mock

# isort: off
from tests.gpu.loading import LIBRARY  # before torch
import torch

# isort: on
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from tests.gpu.counts import Counts

attention = torch.nn.functional.scaled_dot_product_attention

# Operators that only look at memory in another way, or only reserve it: they start nothing on the device.
FREE = {
    "_local_scalar_dense", "_pin_memory", "_reshape_alias", "_unsafe_view", "alias", "as_strided", "chunk", "detach",
    "diagonal", "empty", "empty_like", "empty_strided", "expand", "is_pinned", "lift_fresh", "narrow", "new_empty",
    "new_empty_strided", "permute", "resize_", "select", "set_", "slice", "split", "split_with_sizes", "squeeze", "t",
    "transpose", "unbind", "unfold", "unsqueeze", "view", "view_as_real",
}  # fmt: skip
# The size of the result depends on values, so the host must wait for them.
DATA_DEPENDENT = {"_unique2", "bincount", "equal", "is_nonzero", "masked_select", "nonzero", "unique_consecutive",
                  "unique_dim"}  # fmt: skip
INDEXING = {"_index_put_impl_", "_unsafe_index", "index", "index_put", "index_put_"}


class DeviceMismatch(RuntimeError):
    """Tensors of one operator are on different devices."""


_counts = Counts()  # of the innermost `gpu`
_refused = {"waits": False}
_index = {"now": 0}  # of the GPU of this process; there is one, which has another number in each process of several


def now() -> Counts:
    """The counts of the innermost `gpu`."""
    return _counts


class OnGpu(Tensor):
    """A tensor that says that it is on cuda:0; `values` holds it on the CPU."""

    @staticmethod
    def __new__(cls, values: Tensor, requires_grad: bool = False):
        return Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device=torch.device("cuda", _index["now"]), requires_grad=requires_grad,
        )  # fmt: skip

    def __init__(self, values: Tensor, requires_grad: bool = False):
        self.values = values

    def __repr__(self) -> str:
        return f"OnGpu({self.values})"

    def __deepcopy__(self, memo: dict) -> "OnGpu":
        if id(self) not in memo:
            copied = OnGpu(self.values.clone())
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]

    def tolist(self):
        _wait("tolist")
        return self.values.tolist()

    def numpy(self, *_, **__):
        raise TypeError(f"can't convert cuda:0 device type tensor to numpy, at {place()}")

    def data_ptr(self):
        raise DeviceMismatch(f"the address of a tensor on cuda:0 is used on the CPU, at {place()}")

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, operator, _, args=(), kwargs=None):
        return _start(operator, args, kwargs or {})


def place() -> str:
    """The innermost line of the project that is running."""
    frame = sys._getframe(1)
    while frame:
        file = frame.f_code.co_filename
        for room in ("/s2s/", "/s2s_cli/", "/tests/"):
            if room in file and not file.endswith("gpu/stand_in.py"):
                return f"{file.rsplit(room, 1)[1]}:{frame.f_lineno}"
        frame = frame.f_back
    return "?"


def _wait(reason: str) -> None:
    """Count that the host waits; after torch.cuda.set_sync_debug_mode("error"), this is an error."""
    _counts.waits[f"{reason} {place()}"] += 1
    if _refused["waits"]:
        raise RuntimeError(f"called a synchronizing CUDA operation: {reason}, at {place()}")


def _wrapped(x):
    return OnGpu(x) if isinstance(x, Tensor) and not isinstance(x, OnGpu) else x


def _unwrapped(x):
    return x.values if isinstance(x, OnGpu) else x


def _start(operator, args: tuple, kwargs: dict):
    """Run an operator on the values, if one of its tensors is on the device, or its result shall be."""
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    here = [x for x in tensors if isinstance(x, OnGpu)]
    device = None if kwargs.get("device") is None else torch.device(kwargs["device"])
    if not here and (device is None or device.type != "cuda"):
        return operator(*args, **kwargs)
    if device is not None and device.index not in (None, _index["now"]) and device.type == "cuda":
        raise DeviceMismatch(f"a tensor on {device} in the process of cuda:{_index['now']}, at {place()}")
    name = operator._schema.name.split("::")[1]
    if name in ("_use_cudnn_ctc_loss", "_use_miopen_ctc_loss"):
        return False
    values = tree_map(_unwrapped, args)
    options = {key: tree_map(_unwrapped, value) for key, value in kwargs.items()}
    if device is not None:
        options["device"] = torch.device("cpu")
    if name in ("_to_copy", "copy_"):
        return _copied(operator, name, args, kwargs, values, options, device)
    if name == "native_dropout":
        return _dropout(*values)
    _check_devices(name, args, [x for x in tensors if not isinstance(x, OnGpu) and x.dim()])
    if reason := _waits_for(operator, name, args, kwargs):
        _wait(reason)
    if name not in FREE:
        _counts.operators[name] += 1
    return _result(operator, name, args, kwargs, operator(*values, **options))


def _copied(operator, name: str, args: tuple, kwargs: dict, values: tuple, options: dict, device):
    """Copies, which may be between devices."""
    to, source = (args[0], args[1]) if name == "copy_" else (None, args[0])
    if name == "copy_":
        operator(*values, **options)
        result, on_device = to, isinstance(to, OnGpu)
    else:
        options.pop("non_blocking", None)
        result = operator(*values, **options)
        if result.data_ptr() == values[0].data_ptr():
            result = result.clone()
        on_device = device.type == "cuda" if device is not None else True
        result = OnGpu(result) if on_device else result
    non_blocking = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
    if on_device == isinstance(source, OnGpu):
        _counts.operators[name] += 1
    elif on_device:
        _counts.copies[f"{'asynchronous' if non_blocking else 'blocking'} {place()}"] += 1
    elif not non_blocking:
        _wait("copy to the host")
    return result


def _dropout(x: Tensor, p: float, train: bool | None) -> tuple[OnGpu, OnGpu]:
    """The operator that a GPU has for dropout, with the random numbers that the project draws on a CPU."""
    from s2s.nn.dropout import dropout

    _counts.operators["native_dropout"] += 1
    factors = dropout(torch.ones_like(x), p, bool(train))
    return OnGpu(x * factors), OnGpu(factors != 0)


def _check_devices(name: str, args: tuple, elsewhere: list[Tensor]) -> None:
    """Raise DeviceMismatch if there is a tensor on the CPU that is no scalar. An index may be there; it is copied."""
    if not elsewhere or name in ("_ctc_loss", "_ctc_loss_backward"):  # CTC reads lengths on the host
        return
    if name in INDEXING and isinstance(args[0], OnGpu):
        others = [x for x in args[2:] if isinstance(x, Tensor) and x.dim() and not isinstance(x, OnGpu)]
        if not others:
            _counts.copies[f"blocking, of an index {place()}"] += 1
            return
    shapes = ", ".join(str(tuple(x.shape)) for x in elsewhere)
    raise DeviceMismatch(f"{name}: expected all tensors to be on the same device, but found some on cuda:0 and some on "
                         f"the CPU ({shapes}), at {place()}")  # fmt: skip


def _waits_for(operator, name: str, args: tuple, kwargs: dict) -> str | None:
    """Why the host waits for the device in an operator; None: it does not."""
    if name in INDEXING and any(isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1]):
        return "index by a mask"
    repeats = name == "repeat_interleave" and operator._overloadname == "Tensor" and kwargs.get("output_size") is None
    return name if name in DATA_DEPENDENT or name == "_local_scalar_dense" or repeats else None


def _result(operator, name: str, args: tuple, kwargs: dict, result):
    """The result on the device; operators that change an argument return that argument itself."""
    schema = operator._schema
    if schema.is_mutable and name != "_native_batch_norm_legit":
        if not schema.returns:
            return None
        if name.endswith("_") and isinstance(args[0], Tensor):
            return args[0]
        outs = [kwargs[x.name] for x in schema.arguments if x.is_out and x.name in kwargs]
        if outs:
            return outs[0] if len(outs) == 1 else tuple(outs)
    return tree_map(_wrapped, result)


class _Fused(torch.autograd.Function):
    """A function as one operator, and its gradient as another, computed on the CPU."""

    @staticmethod
    def forward(ctx, name: str, function, spec, *arguments):
        """`arguments`: those of `function`, flattened; `spec` says how."""
        tensors = [x if isinstance(x, Tensor) else None for x in arguments]
        ctx.save_for_backward(*tensors)
        ctx.call = name, function, spec, [None if isinstance(x, Tensor) else x for x in arguments]
        ctx.random = torch.get_rng_state()
        _counts.operators[name] += 1
        result = function(*tree_unflatten([_unwrapped(x) for x in arguments], spec))
        return OnGpu(result) if isinstance(result, Tensor) else tuple(map(OnGpu, result))

    @staticmethod
    def backward(ctx, *gradients):
        name, function, spec, others = ctx.call
        _counts.operators[f"{name}, backward"] += 1
        values = [other if x is None else _unwrapped(x) for x, other in zip(ctx.saved_tensors, others, strict=True)]
        needed = [n for n, x in enumerate(values) if ctx.needs_input_grad[n + 3]]
        now = torch.get_rng_state()
        torch.set_rng_state(ctx.random)
        with torch.enable_grad():
            for n in needed:
                values[n] = values[n].detach().requires_grad_()
            results = function(*tree_unflatten(values, spec))
            results = [results] if isinstance(results, Tensor) else results
            pairs = [(x, y.values) for x, y in zip(results, gradients, strict=True) if y is not None]
            outputs, upstream = zip(*pairs, strict=True)
            found = torch.autograd.grad(outputs, [values[n] for n in needed], upstream, allow_unused=True)
        torch.set_rng_state(now)
        found = dict(zip(needed, found, strict=True))
        return None, None, None, *(None if found.get(n) is None else OnGpu(found[n]) for n in range(len(values)))


def _fused(name: str, function, *arguments):
    """Call `function` as one operator of the device."""
    flat, spec = tree_flatten(arguments)
    return _Fused.apply(name, function, spec, *flat)


def _attend(q, k, v, mask=None, dropout=0.0, causal=False, enable_gqa=False):
    """In place of `scaled_dot_product_attention`, which chooses its kernel before anything is dispatched."""
    if not isinstance(q, OnGpu):
        return attention(q, k, v, mask, dropout, causal, enable_gqa=enable_gqa)
    if len({x.dtype for x in (q, k, v)}) > 1:
        raise RuntimeError(f"attention of {q.dtype}, {k.dtype} and {v.dtype}, at {place()}")
    if not all(isinstance(x, OnGpu) for x in (k, v, mask) if x is not None):
        raise DeviceMismatch(f"attention: some tensors are on the CPU, at {place()}")
    if mask is not None and not mask.is_floating_point():  # torch makes numbers of it, in each call
        _counts.operators.update(["mask of attention"] * 3)
    return _fused("attention", _attended, q, k, v, mask, dropout, causal, enable_gqa)


def _attended(q, k, v, mask, dropout, causal, enable_gqa) -> Tensor:
    """The values of attention, in the order of memory that kernels of a GPU have, [B, T, H, d]."""
    kind = torch.float32 if q.dtype == torch.float16 else q.dtype
    if mask is not None and mask.is_floating_point():
        mask = mask.to(kind)
    result = attention(q.to(kind), k.to(kind), v.to(kind), mask, dropout, causal, enable_gqa=enable_gqa)
    return result.to(q.dtype).transpose(1, 2).contiguous().transpose(1, 2)


def _recurrent(name: str):
    """In place of `torch.lstm` and `torch.gru`, which cuDNN computes as one operator."""
    function = getattr(torch._VF, name)
    return lambda x, *others: _fused(name, function, x, *others) if isinstance(x, OnGpu) else function(x, *others)


class _Operators(TorchDispatchMode):
    def __torch_dispatch__(self, operator, _, args=(), kwargs=None):
        return _start(operator, args, kwargs or {})


class Event:
    """In place of `torch.cuda.Event`."""

    def record(self, stream=None) -> None:
        pass

    def synchronize(self) -> None:
        _wait("event")


def _set_device(index: int) -> None:
    """The number of the one GPU. Other threads have GPU 0, as CUDA has it, until they say otherwise."""
    _index["now"] = index
    LIBRARY.set_device(index)


CUDA = {  # name in torch.cuda -> what it does here
    "Event": Event,
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "is_initialized": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: _index["now"],
    "set_device": _set_device,
    "set_sync_debug_mode": lambda mode: _refused.update(waits=mode == "error"),
    "empty_cache": lambda: None,
    "synchronize": lambda device=None: _wait("synchronize"),
    "max_memory_allocated": lambda device=None: 1 << 30,
    "reset_peak_memory_stats": lambda device=None: None,
    "get_device_name": lambda device=None: "a stand-in for a GPU",
    "get_device_capability": lambda device=None: (9, 0),
    "is_bf16_supported": lambda including_emulation=True: True,
    "is_current_stream_capturing": lambda: False,
    "manual_seed_all": lambda seed: None,
}


@contextlib.contextmanager
def gpu():
    """Let torch believe that there is a GPU, with index 0. Yields the Counts of what happens inside."""
    import torch.utils._foreach_utils as foreach

    global _counts
    before, _counts = _counts, Counts()
    swaps, lifts = torch.__future__.get_swap_module_params_on_conversion(), torch._C._only_lift_cpu_tensors()
    with contextlib.ExitStack() as stack:
        for name, function in CUDA.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, function))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda self, device=None: self))
        supported = [*foreach._foreach_supported_types, OnGpu]
        stack.enter_context(mock.patch.object(foreach, "_foreach_supported_types", supported))
        for name in ("__enter__", "__exit__"):
            stack.enter_context(mock.patch.object(torch.inference_mode, name, getattr(torch.no_grad, name)))
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        torch.__future__.set_swap_module_params_on_conversion(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        torch._C._set_only_lift_cpu_tensors(True)
        stack.enter_context(torch.autograd.set_multithreading_enabled(False))
        stack.enter_context(mock.patch("s2s.nn.attention.scaled_dot_product_attention", _attend))
        for name in ("lstm", "gru"):
            for owner in (torch, torch._VF):
                stack.enter_context(mock.patch.object(owner, name, _recurrent(name)))
        stack.enter_context(_Operators())
        try:
            yield _counts
        finally:
            _counts = before
