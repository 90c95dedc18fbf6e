"""`decode.backend=native`: on a CPU, one call of a compiled kernel computes a decoder step, another one the choice.

The classes have the same methods as those in PyTorch operators, and the same results up to rounding. Linear maps, also
those of the encoder, have the kernels' own layout in fp32 or int8 (as `Int8Linear`: a scale for each output and for
each row). A row's numbers are independent of the other rows, bit by bit.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, N layers, G key/value heads, L places, d head width.
"""

from collections.abc import Callable
from functools import partial
from operator import is_not

import torch
from torch import Tensor, nn

from s2s.backends.prepacked import prepacked
from s2s.models.claims import step_departure
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.native.arguments import Structure
from s2s.native.library import Unavailable, call, library
from s2s.nn.feedforward import ACTIVATIONS, FeedForward
from s2s.nn.layers import Layer
from s2s.nn.positions import turns
from s2s.nn.slots import kept
from s2s.nn.state import TransformerState

NEVER = float("-inf")
ARRAYS = ("cache", "history", "key_values", "lengths", "positions")  # of the kernels' `State`
PANEL = 32  # outputs of a linear map whose weights lie together


def native(model: EncoderDecoder, dtype: str) -> EncoderDecoder:
    """A light copy of a model that decodes with the kernels. Raises Unavailable."""
    if reason := step_departure(model):
        raise Unavailable(reason)
    parameter = next(model.parameters())
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        raise Unavailable(f"the kernels are for a CPU and fp32, not for {parameter.device.type} and {parameter.dtype}")
    if dtype not in ("fp32", "int8"):
        raise Unavailable(f"the kernels compute in fp32 and int8, not in {dtype}")
    blocks = [layer.feedforward for layer in model.decoder.layers] if model.has_decoder else []
    if len({block.outer.weight.shape for block in blocks}) > 1:
        raise Unavailable("they are for decoder layers of one width, and the feed-forward blocks of this model differ")
    library()
    light = prepacked(model, dtype, partial(NativeLinear, int8=dtype == "int8"))
    if light.has_decoder:
        light.decoder.State, light.step = NativeState, Step(light)
    return light


def mixing(model: EncoderDecoder, shares: list[float]) -> EncoderDecoder:
    """As EncoderDecoder.mixing, for a model that is prepared for decoding."""
    light = model.mixing(shares)
    if isinstance(model.step, Step):
        light.step = Step(light)
    return light


class NativeLinear(nn.Module):
    """x @ weight.T + bias, optionally followed by ReLU.

    Args:
        linear: The map whose weights are used.
        relu: Apply ReLU.
        int8: Round weights and inputs to 8 bits, with a scale for each output and for each row.

    Attributes:
        map: The kernels' `Map`.
    """

    def __init__(self, linear: nn.Linear, relu: bool = False, *, int8: bool):
        super().__init__()
        weight, self.relu = linear.weight.detach(), relu
        self.again = partial(NativeLinear, relu=relu, int8=int8)  # makes the same kind of map from other weights
        self.outputs, inputs = weight.shape
        panels, parts = -(-self.outputs // PANEL), {"bias": linear.bias, "O": self.outputs, "I": inputs}
        if int8:
            scales = weight.abs().amax(1).clamp(min=1e-30) / 127
            weight = (weight / scales[:, None]).round()
            fours = -(-inputs // 4)
            padded = torch.zeros(panels * PANEL, fours * 4, dtype=torch.int8)
            padded[: self.outputs, :inputs] = weight
            codes = padded.view(panels, PANEL, fours, 4).transpose(1, 2).contiguous()
            parts |= {"codes": codes, "scales": scales, "sums": weight.sum(1).int()}
        else:
            padded = torch.zeros(panels * PANEL, inputs)
            padded[: self.outputs] = weight
            parts["weights"] = padded.view(panels, PANEL, inputs).transpose(1, 2).contiguous()
        self.map = Structure("Map", **parts)

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]"""
        rows = x.contiguous().view(-1, x.size(-1))
        y = x.new_empty(len(rows), self.outputs)
        call("linear_map", self.map, rows, y, self.relu)
        return y.view(*x.shape[:-1], self.outputs)


class Step:
    """`EncoderDecoder.step` of a model whose linear maps are native.

    Args:
        model: The model.
    """

    def __init__(self, model: EncoderDecoder):
        decoder = model.decoder
        stack, layer = decoder.config, decoder.layers[0]
        activation = getattr(layer.feedforward, "activation", "relu")  # prepacked, one with ReLU is two maps
        self.width, self.head, self.size = stack.width, stack.head, model.target_vocabulary_size
        self.positions, self.turned = decoder.embedding.positions, torch.empty(0, self.head)
        heads = {n: decoder.head_norms[str(n)] for n in decoder.shares}
        with torch.no_grad():  # the shares may be parameters
            shares = [float(decoder.shares.get(n, 0.0)) for n in range(1, stack.layers + 1)]
        sizes = {"D": stack.width, "H": stack.heads, "G": stack.kv_heads or stack.heads, "d": self.head}
        self.decoder = Structure(
            "Decoder",
            **sizes,
            N=stack.layers,
            pre_norm=layer.pre_norm,
            log_length=layer.attention.log_length,
            scaled=decoder.embedding.scale != 1,
            embedded=_norm(decoder.embedding.norm),
            activation=ACTIVATIONS.index(activation),
            embedding=decoder.embedding.tokens.weight,
            norm=_norm(decoder.norm),
            shares=torch.tensor([*shares, 1 - sum(shares)]) if heads else None,
            logits=model.output.map,
            layer=[_layer(layer, heads.get(n), sizes) for n, layer in enumerate(decoder.layers, 1)],
        )

    def __call__(
        self,
        tokens: Tensor,
        state: "NativeState",
        output: Callable[[Tensor], Tensor] | None = None,
        scores: Tensor | None = None,
    ) -> Tensor:
        """As EncoderDecoder.step. With scores [B, K], nothing is computed for rows whose score is minus infinity."""
        state.begin(scores)
        logits = top = None
        if output is None:
            if state.logits is None or len(state.logits) != len(tokens):  # kept for all steps: new memory is slow
                state.logits = torch.zeros(len(tokens), self.size, dtype=torch.float32)
            logits = state.logits
        else:
            top = torch.empty(len(tokens), self.width, dtype=torch.float32)
        if self.positions.kind == "rotary":
            place = state.place(decoder=self.decoder, turned=self._turned(state.length))
        else:
            place = state.place(decoder=self.decoder, added=self.positions.table_of(state.length))
        call("decoder_step", place, tokens, scores, logits, top)
        state.steps += 1  # the kernel has advanced the positions
        return logits if output is None else output(top.view(-1, state.rows, self.width)).flatten(0, 1)

    def _turned(self, length: int) -> Tensor:
        """Cosines and sines of the first T >= length positions, fp32 [T, d]."""
        table = self.turned
        if len(table) < length:
            positions = torch.arange(1 << (length - 1).bit_length())
            self.turned = table = torch.cat(turns(positions, self.head), dim=1)  # as PositionEmbedding.table_of
        return table


def _norm(norm: nn.Module | None) -> Structure | None:
    """The kernels' `Norm`."""
    if not isinstance(norm, nn.LayerNorm):
        return None
    return Structure("Norm", weight=norm.weight, bias=norm.bias, epsilon=torch.tensor([norm.eps]))


def _layer(layer: Layer, head: nn.Module | None, sizes: dict[str, int]) -> Structure:
    """The kernels' `Layer`."""
    block = layer.feedforward  # with ReLU it is a sequence of two prepacked maps
    inner, outer = block if isinstance(block, nn.Sequential) else (block.inner, block.outer)
    cross = {}
    if layer.attends:
        cross = {"cross_norm": _norm(layer.cross_norm), "query": layer.cross.query.map,
                 "cross_output": layer.cross.output.map}  # fmt: skip
    F = outer.map.sizes["I"]
    return Structure(
        "Layer",
        **sizes,
        **cross,
        E=F * (2 if isinstance(block, FeedForward) and block.activation == "swiglu" else 1),
        F=F,
        attention_norm=_norm(layer.attention_norm),
        feedforward_norm=_norm(layer.feedforward_norm),
        qkv=layer.attention.qkv.map,
        output=layer.attention.output.map,
        inner=inner.map,
        outer=outer.map,
        head=_norm(head),
    )


class NativeState(TransformerState):
    """State of a Transformer decoder in which keys and values never move: a table says which row holds them.

    Attributes:
        cache: fp32 [N, 2, B, G, L, K, d], keys and values of self-attention, where each row has written them.
        history: int32 [B, K, L], for each position of a row's hypothesis the row of the same sentence that holds it.
        lengths: int64 [B], source positions without padding.
    """

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int, most: int | None = None):
        super().__init__(key_values.contiguous(), mask, rows, most)
        self.history = torch.zeros(mask.size(0), rows, 0, dtype=torch.int32)
        self.logits: Tensor | None = None
        self._parts: tuple[Structure | Tensor, ...] = ()
        self._read: dict[str, Structure | Tensor] = {}
        self._count()

    def _count(self) -> None:
        self.lengths = self.mask.flatten(1).sum(1)

    def begin(self, scores: Tensor | None = None) -> None:
        """Make room for one more position of every row. scores: [B, K]; a sentence whose scores are all minus infinity
        needs no room."""
        self._bound()
        self.length = int(self.steps.max()) + 1
        size = self.history.size(2)
        if self.length > size and scores is not None:
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

    def place(self, **parts: Structure | Tensor) -> Structure:
        """The kernels' `State`. It is made anew when a part or an array has changed since the last call.

        Args:
            parts: The kernels' `Decoder` and the table of positions; none: as in the last call.
        """
        self._read = parts = parts or self._read
        arrays = self.cache, self.history, self.key_values, self.lengths, self.positions, *parts.values()
        if len(arrays) != len(self._parts) or any(map(is_not, arrays, self._parts)):
            B, K, _ = self.history.shape
            self._parts = arrays
            self._place = Structure("State", R=B * K, **dict(zip(ARRAYS, arrays, strict=False)), **parts)
        return self._place

    def reorder(self, parents: Tensor) -> None:
        """Row r continues the hypothesis of row parents[r]. parents: int64 [R]."""
        call("reorder", self.place(), parents)

    def admit(self, slots: Tensor, other: "NativeState", which: Tensor) -> None:
        """As TransformerState.admit."""
        super().admit(slots, other, which)
        self.history[slots] = torch.arange(self.rows, dtype=torch.int32)[:, None]
        self._count()

    def _forget(self, slots: Tensor) -> None:
        """Nothing to do: the kernel reads only positions of a sentence."""

    def release(self, keep: Tensor, slots: int) -> None:
        """As TransformerState.release."""
        cache, self.cache, needed = self.cache, self.key_values.new_empty(0), self._needed(keep)
        super().release(keep, slots)
        if cache.numel():
            self.cache = kept(cache[:, :, :, :, :needed], keep, slots, 2)
        self.history = kept(self.history[:, :, :needed], keep, slots)
        self._count()
