"""`decode.dtype`: the linear maps of a model, laid out once for the fastest kernels at inference.

On a CPU weights are laid out for oneDNN (fp32, bf16), or quantised to int8 for fbgemm and oneDNN. All these kernels
come with PyTorch. Everything else (embeddings, norms, attention, softmax) stays in fp32. On a GPU the entire model is
converted to the type.

int8: weights have a scale for each output; inputs have a scale for each row, computed from the row. The sums are exact
integers. PyTorch's `linear_dynamic` has one scale for all rows instead, so a sentence's hypotheses would depend on the
other sentences of its batch. `tests/benchmarks/quantization.py` measures what each type gains and loses.

Shapes: R rows (all dimensions but the last), K inputs, N outputs.
"""

import copy
import sys
import threading
import warnings
from collections.abc import Callable
from itertools import chain

import torch
from torch import Tensor, nn

from s2s.errors import UserError
from s2s.models.claims import is_linear, ours
from s2s.nn.feedforward import FeedForward

# Which kernel is faster was measured by shape and rows (AVX512-VNNI, one and two threads); these rules are as good as a
# table, and unlike one measured at load they give the same rounding in every run.
PLAIN_BELOW = 2**19  # multiplications of a product; below it the plain product is faster than oneDNN's dispatch
PREPACKED_ROWS = 320  # rows that oneDNN optimises the layout for; it is as good for fewer
FBGEMM_ROWS = 64  # int8: fbgemm up to this many rows, oneDNN above

_engine = threading.Lock()  # held while the process's quantisation engine is changed


def prepacked(model: nn.Module, dtype: str, linear: Callable[..., nn.Module] | None = None) -> nn.Module:
    """A light copy of a model for inference, which any number of threads may use at once.

    The model itself is unchanged. Weights that are not prepacked are shared with it, so after more training it must be
    prepacked anew. A prepacked weight takes 4 bytes in fp32, 2 in bf16, and 2 in int8 (one for each kernel).

    Args:
        model: In evaluation mode.
        dtype: `decode.dtype`: fp32, bf16, fp16 or int8.
        linear: On a CPU, makes a prepacked map from an `nn.Linear`, with or without `relu=True`. None: the classes of
            `LINEAR`.

    Returns:
        The copy, or the model itself if nothing changes: in fp32 on a GPU, and for a model in fp64.

    Raises:
        UserError: the model's device does not support this type in hardware.
    """
    parameters = list(model.parameters())
    check(dtype, parameters[0].device.type)
    if dtype == "fp32" and parameters[0].dtype == torch.float64:
        return model
    # deepcopy takes objects in its memo as already copied.
    memo: dict = {id(tensor): tensor for tensor in chain(parameters, model.buffers())}
    if parameters[0].device.type != "cpu":
        if dtype == "fp32":
            return model
        kind = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
        memo |= {id(p): nn.Parameter(p.detach().to(kind), requires_grad=False) for p in parameters}
        return copy.deepcopy(model, memo)
    if linear is None and dtype == "fp32" and not _has_onednn():
        print("decode.dtype=fp32: without oneDNN in this PyTorch, weights are used as they are", file=sys.stderr)
        return model
    linear = linear or LINEAR[dtype]
    for holder in model.modules():
        for module in holder.children():
            if _two_maps(module):
                memo[id(module)] = nn.Sequential(linear(module.inner, relu=True), linear(module.outer))
            elif is_linear(module) and (ours(holder) or holder is model) and id(module) not in memo:
                memo[id(module)] = linear(module)
    return copy.deepcopy(model, memo)


def _two_maps(module: nn.Module) -> bool:
    """Whether a module is two linear maps with a ReLU between them."""
    return (type(module) is FeedForward and module.activation == "relu" and is_linear(module.inner)
            and is_linear(module.outer))  # fmt: skip


def check(dtype: str, device: str) -> None:
    """Raise UserError if a device ("cpu", "cuda") does not compute well in a type."""
    if device != "cpu":
        if dtype == "int8":
            raise UserError("decode.dtype=int8 is for a CPU; on a GPU, decode.dtype=bf16 or fp16 is fast")
        return
    if dtype == "fp16":
        raise UserError("decode.dtype=fp16 is for a GPU; on a CPU, decode.dtype=int8 is fast")
    if dtype == "bf16" and not (_has_onednn() and (_cpu("avx512_bf16") or _cpu("amx_tile"))):
        raise UserError("decode.dtype=bf16: this CPU has neither AVX512-BF16 nor AMX and would be several times slower "
                        "than in fp32, emulating it; decode.dtype=int8 is fast")  # fmt: skip
    if dtype == "int8" and "fbgemm" not in torch.backends.quantized.supported_engines:
        raise UserError("decode.dtype=int8 needs PyTorch's fbgemm kernels, which it has for x86 CPUs with AVX2 only; "
                        "use decode.dtype=fp32")  # fmt: skip


def _cpu(feature: str) -> bool:
    return getattr(torch.cpu, f"_is_{feature}_supported")()


def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class PrepackedLinear(nn.Module):
    """x @ weight.T + bias in fp32, optionally followed by ReLU, with weights laid out for oneDNN.

    Args:
        linear: The map whose weights are used.
        relu: Apply ReLU.
    """

    def __init__(self, linear: nn.Linear, relu: bool = False):
        super().__init__()
        weight, self.bias = linear.weight.detach(), _detached(linear.bias)
        self.prepacked = torch.ops.mkldnn._reorder_linear_weight(weight, PREPACKED_ROWS)
        self.relu = relu
        self.few = PLAIN_BELOW // linear.out_features  # numbers R * K in x up to which the plain product is used
        self.plain = weight if linear.in_features <= self.few else None

    def forward(self, x: Tensor) -> Tensor:
        """fp32 [..., K] -> fp32 [..., N]"""
        if x.numel() <= self.few:
            y = nn.functional.linear(x, self.plain, self.bias)
            return y.relu_() if self.relu else y
        return _pointwise(x, self.prepacked, self.bias, self.relu)


class BFloat16Linear(nn.Module):
    """As PrepackedLinear, in bf16: inputs and outputs are fp32 rounded to bf16, sums are in fp32."""

    def __init__(self, linear: nn.Linear, relu: bool = False):
        super().__init__()
        self.prepacked = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().bfloat16(), PREPACKED_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach().bfloat16()
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """fp32 [..., K] -> fp32 [..., N]"""
        return _pointwise(x.bfloat16(), self.prepacked, self.bias, self.relu).float()


class Int8Linear(nn.Module):
    """As PrepackedLinear, with weights and inputs rounded to 8 bits, with a scale for each output and for each row.

    On a CPU without VNNI sums of two products are made in 16 bits. So inputs are rounded to 7 bits there, and only
    fbgemm is used.
    """

    def __init__(self, linear: nn.Linear, relu: bool = False):
        super().__init__()
        self.bias, self.relu = _detached(linear.bias), relu
        self.vnni = _cpu("vnni")
        self.step, self.zero = (1 / 127, 128) if self.vnni else (1 / 63, 64)  # for inputs in -1 ... 1
        weight = linear.weight.detach()
        self.scales = weight.abs().amax(1).clamp(min=1e-30) / 127
        weight = (weight / self.scales[:, None]).round().to(torch.int8)
        self.zeros = torch.zeros(len(weight), dtype=torch.int32)
        self.fbgemm = _fbgemm(weight, self.scales)
        self.onednn = torch.ops.onednn.qlinear_prepack(weight, None) if self.vnni else None

    def forward(self, x: Tensor) -> Tensor:
        """fp32 [..., K] -> fp32 [..., N]"""
        scale = x.abs().amax(-1, keepdim=True)  # a row of zeros: 0 / 0 is NaN, rounded to some integer, times 0 is 0
        y = self._product(x / scale)
        y = y.mul_(scale) if self.bias is None else torch.addcmul(self.bias, y, scale)
        return y.relu_() if self.relu else y

    def _product(self, x: Tensor) -> Tensor:
        """The product with the weights, for inputs in -1 ... 1. Both kernels round them alike."""
        if not self.vnni or x.numel() <= FBGEMM_ROWS * x.size(-1):
            return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
                x, self.step, self.zero, self.fbgemm
            )
        x = torch.quantize_per_tensor(x, self.step, self.zero, torch.quint8)
        x = torch.empty(0, dtype=torch.uint8).set_(x.untyped_storage(), 0, x.shape)  # int_repr() is slow
        return torch.ops.onednn.qlinear_pointwise(
            x, self.step, self.zero, self.onednn, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )


LINEAR = {"fp32": PrepackedLinear, "bf16": BFloat16Linear, "int8": Int8Linear}  # by `decode.dtype` on a CPU


def rows_of(linear: nn.Module, original: nn.Linear, outputs: Tensor) -> nn.Module:
    """A map to a subset of the outputs, prepacked as `linear` is.

    Args:
        linear: The map in the prepared model: what `prepacked` made of `whole`, or `whole` itself.
        whole: The map in the model, with its weights.
        outputs: int64 [N'], indices of the outputs to keep.
    """
    kind = type(linear)
    weights = linear if kind is nn.Linear else original
    subset = nn.Linear(original.in_features, len(outputs), original.bias is not None, device="meta")
    subset.weight = nn.Parameter(weights.weight.detach()[outputs], requires_grad=False)
    if original.bias is not None:
        subset.bias = nn.Parameter(weights.bias.detach()[outputs], requires_grad=False)
    if kind is nn.Linear:
        return subset
    return linear.again(subset) if hasattr(linear, "again") else kind(subset, linear.relu)


def _detached(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach()


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor | None, relu: bool) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "relu" if relu else "none", [], "")


def _fbgemm(weight: Tensor, scales: Tensor):
    """Weights, int8 [N, K], laid out for fbgemm. scales: fp32 [N]."""
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    with _engine, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # quantised tensors are deprecated since PyTorch 2.13
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            quantised = torch._make_per_channel_quantized_tensor(weight, scales.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(quantised, None)
        finally:
            torch.backends.quantized.engine = before
