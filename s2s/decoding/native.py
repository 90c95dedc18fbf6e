"""`decode.backend=native`: a step of the decoder is one call of a compiled kernel, the choice another, on a CPU.

The same verbs and the same results, to rounding, as the classes in PyTorch operators. Linear maps are of the kernels'
own layout in fp32 or int8 (as `Int8Linear`: a scale for each output and for each row), in the encoder too. A row's
numbers do not depend in any bit on the other rows.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, N layers, G key/value heads, L places, d head width.
"""

import ctypes
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from s2s.decoding.choice import NEVER, Beam, Choice
from s2s.decoding.limits import Limits
from s2s.decoding.packed import packed
from s2s.models.claims import step_departure
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.native.library import Unavailable, call, library
from s2s.nn.feedforward import ACTIVATIONS
from s2s.nn.layers import Layer
from s2s.nn.positions import turns
from s2s.nn.slots import kept
from s2s.nn.state import TransformerState

PANEL = 32  # outputs of a linear map whose weights lie together


def native(model: EncoderDecoder, dtype: str) -> EncoderDecoder:
    """A light copy of a model that decodes with the kernels. Raises Unavailable."""
    if reason := step_departure(model):
        raise Unavailable(reason)
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        raise Unavailable(f"they are for a CPU and fp32, not for {parameter.device.type} and {parameter.dtype}")
    if dtype not in ("fp32", "int8"):
        raise Unavailable(f"they compute in fp32 and int8, not in {dtype}")
    library()
    light = packed(model, dtype, partial(NativeLinear, int8=dtype == "int8"))
    if light.has_decoder:
        light.decoder.State, light.step = NativeState, Step(light)
    return light


def mixing(model: EncoderDecoder, shares: list[float]) -> EncoderDecoder:
    """As EncoderDecoder.mixing, of a model that is prepared for decoding."""
    light = model.mixing(shares)
    if isinstance(model.step, Step):
        light.step = Step(light)
    return light


class NativeLinear(nn.Module):
    """x @ weight.T + bias, perhaps with ReLU after it.

    Args:
        linear: Has the weights.
        relu: With ReLU.
        int8: Weights and inputs rounded to 8 bits, with a scale for each output and for each row.

    Attributes:
        map: The kernels' `Map`: addresses of weights, bias, scales and sums, and the numbers of outputs and inputs.
    """

    def __init__(self, linear: nn.Linear, relu: bool = False, *, int8: bool):
        super().__init__()
        weight, self.relu = linear.weight.detach(), relu
        self.again = partial(NativeLinear, relu=relu, int8=int8)  # the same of other weights
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.outputs, inputs = weight.shape
        self.scales = self.sums = None
        group, kind = 1, torch.float32
        if int8:
            self.scales = weight.abs().amax(1).clamp(min=1e-30) / 127
            weight = (weight / self.scales[:, None]).round()
            self.sums = weight.sum(1).int()
            group, kind = 4, torch.int8
        panels, groups = -(-self.outputs // PANEL), -(-inputs // group)
        padded = torch.zeros(panels * PANEL, groups * group, dtype=kind)
        padded[: self.outputs, :inputs] = weight
        self.weights = padded.view(panels, PANEL, groups, group).transpose(1, 2).contiguous()
        parts = (self.weights, self.bias, self.scales, self.sums)
        self.map = torch.tensor([0 if part is None else part.data_ptr() for part in parts] + [self.outputs, inputs])

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]"""
        x = x.contiguous()
        y = x.new_empty(*x.shape[:-1], self.outputs)
        call("linear_map", self.map, x, y, y.numel() // self.outputs, int(self.relu))
        return y


class Step:
    """`EncoderDecoder.step` of a model whose linear maps are native.

    Args:
        model: The model.
    """

    def __init__(self, model: EncoderDecoder):
        decoder = model.decoder
        stack, layer = decoder.config, decoder.layers[0]
        activation = getattr(layer.feedforward, "activation", "relu")  # packed, one with ReLU is two maps
        self.width, self.head, self.size = stack.width, stack.width // stack.heads, model.target_vocabulary_size
        self.positions = decoder.embedding.positions
        self.kept = [decoder, model.output]  # addresses are theirs
        numbers = [stack.layers, stack.width, stack.heads, stack.kv_heads or stack.heads, self.head,
                   int(layer.pre_norm), ACTIVATIONS.index(activation),
                   decoder.embedding.tokens.weight.data_ptr()]  # fmt: skip
        heads = {n: decoder.head_norms[str(n)] for n in decoder.shares}
        shares = [decoder.shares.get(n, 0.0) for n in range(1, stack.layers + 1)]
        self.shares = torch.tensor([*shares, 1 - sum(shares)])
        numbers += [*_norm(decoder.norm), self.shares.data_ptr() if heads else 0, *model.output.map.tolist()]
        layers = [[*_layer(layer), *_norm(heads.get(n))] for n, layer in enumerate(decoder.layers, 1)]
        self.decoder = torch.tensor(numbers + [number for layer in layers for number in layer])

    def __call__(
        self,
        tokens: Tensor,
        state: "NativeState",
        output: Callable[[Tensor], Tensor] | None = None,
        scores: Tensor | int = 0,
    ) -> Tensor:
        """As there. With scores [B, K], nothing is computed for rows whose score is minus infinity."""
        state.begin(scores)
        if self.positions.kind == "rotary":
            tables = 0, torch.cat(turns(torch.arange(state.history.size(2)), self.head), dim=1)
        else:
            tables = self.positions.table_of(state.length), 0
        place = state.place(*tables)
        if output is None:
            if state.logits is None or len(state.logits) != len(tokens):
                state.logits = torch.zeros(len(tokens), self.size)  # every step's: fresh memory is slow to touch
            logits, top = state.logits, 0
        else:
            logits, top = 0, torch.empty(len(tokens) // state.rows, state.rows, self.width)
        call("decoder_step", self.decoder, ctypes.addressof(place), tokens, scores, logits, top)
        state.advance()
        return logits if output is None else output(top).flatten(0, 1)


def _norm(norm: nn.Module | None) -> list[int]:
    """The kernels' `Norm`."""
    return [norm.weight.data_ptr(), norm.bias.data_ptr()] if isinstance(norm, nn.LayerNorm) else [0, 0]


def _layer(layer: Layer) -> list[int]:
    """The kernels' `Layer`; without cross-attention its maps are nulls."""
    block = layer.feedforward  # with ReLU, two packed maps
    inner, outer = block if isinstance(block, nn.Sequential) else (block.inner, block.outer)
    cross = (layer.cross.query, layer.cross.output) if hasattr(layer, "cross") else (None, None)
    norms = layer.attention_norm, layer.cross_norm if cross[0] else None, layer.feedforward_norm
    maps = layer.attention.qkv, layer.attention.output, *cross, inner, outer
    numbers = [each.map.tolist() if each is not None else [0] * 6 for each in maps]
    return [n for norm in norms for n in _norm(norm)] + [n for each in numbers for n in each]


class NativeState(TransformerState):
    """State of a Transformer decoder in which no key or value ever moves: a table says whose they are.

    Attributes:
        cache: [N, 2, B, G, L, K, d], own keys and values, where each row has put them.
        history: [B, K, L] int32, the row of the same sentence that has each position of a row's hypothesis.
        lengths: [B] int64, real source positions.
    """

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int):
        super().__init__(key_values.contiguous(), mask, rows)
        self.history = torch.zeros(mask.size(0), rows, 0, dtype=torch.int32)
        self.logits: Tensor | None = None
        self._count()

    def _count(self) -> None:
        self.lengths = self.mask.flatten(1).sum(1)

    def begin(self, scores: Tensor | int = 0) -> None:
        """Make room for one more position of every row; sentences of which no row is live need none; scores: [B, K]."""
        self.length = int(self.steps.max()) + 1
        size = self.history.size(2)
        if self.length > size and isinstance(scores, Tensor):
            idle = scores.amax(1) == NEVER
            self.steps[idle.numpy()] = 0
            self.positions[idle] = 0
            self.length = int(self.steps.max()) + 1
        if self.length > size:
            N, _, B, G, _, d = self.key_values.shape
            new = max(self.length, 2 * size, 32)
            cache = self.key_values.new_empty(N, 2, B, G, new, self.rows, d)
            history = torch.arange(self.rows, dtype=torch.int32)[:, None].repeat(B, 1, new)
            if size:
                cache[:, :, :, :, :size], history[:, :, :size] = self.cache, self.history
            self.cache, self.history = cache, history

    def place(self, added: Tensor | int, turned: Tensor | int) -> ctypes.Array:
        """The kernels' `State`; added, turned: tables of positions, or 0."""
        parts = (self.cache, self.history, self.key_values, self.lengths, self.positions, added, turned)
        numbers = [part if type(part) is int else part.data_ptr() for part in parts]
        return (ctypes.c_int64 * 11)(*self.history.shape, self.key_values.size(4), *numbers)

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r]."""
        call("reorder", self.history, self.positions, parents, *self.history.shape)

    def admit(self, slots: Tensor, other: "NativeState", which: Tensor) -> None:
        """As TransformerState.admit."""
        super().admit(slots, other, which)
        self.history[slots] = torch.arange(self.rows, dtype=torch.int32)[:, None]
        self._count()

    def _forget(self, slots: Tensor) -> None:
        """The kernel reads nothing that is not of a sentence."""

    def release(self, keep: Tensor, slots: int) -> None:
        """As TransformerState.release."""
        cache, self.cache, needed = self.cache, self.key_values.new_empty(0), self._needed(keep)
        super().release(keep, slots)
        if cache.numel():
            self.cache = kept(cache[:, :, :, :, :needed], keep, slots, 2)
        self.history = kept(self.history[:, :, :needed], keep, slots)
        self._count()


class NativeBeam(Beam):
    """As Beam, from logits to choice in one pass, which scales the log-probability of EOS too."""

    def __call__(self, logits: Tensor, normalizer: None, scores: Tensor, limits: Limits) -> Choice:
        """logits: [R, V], unchanged; normalizer: is found here; scores: [B, K]."""
        B, K = scores.shape
        tokens, parents = torch.empty(2, B, K, dtype=torch.int64)
        values = torch.empty(4, B, K).unbind()
        ended, scale = ctypes.c_int64(), ctypes.c_float(self.config.eos_scale)
        call("beam", logits, scores, limits.host.ctypes.data, limits.prefix, tokens, parents, *values,
             ctypes.addressof(ended), B, K, logits.size(1), limits.prefix.size(1),
             int(self.config.allow_unknown), ctypes.addressof(scale))  # fmt: skip
        return Choice(tokens, None if K == 1 else parents, *values, bool(ended.value))
