"""`decode.backend=native`: on a CPU, one call of a compiled kernel computes a decoder step, another one the choice.

Where the encoder is a Transformer's too, one call encodes sentences, up to the keys and values of cross-attention.

The classes have the same methods as those in PyTorch operators, and the same results up to rounding. Linear maps, also
those of the encoder, have the kernels' own layout in fp32 or int8 (as `Int8Linear`: a scale for each output and for
each row). A row's numbers are independent of the other rows, bit by bit.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, N layers, G key/value heads, L places, d head width.
"""

from collections.abc import Callable
from functools import partial
from operator import is_not

import numpy as np
import torch
from torch import Tensor, nn

from s2s.backends.prepacked import prepacked
from s2s.data.batch import Inputs
from s2s.models.claims import encoder_departure, step_departure
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.native.arguments import Structure
from s2s.native.library import Unavailable, call, library
from s2s.nn.feedforward import ACTIVATIONS, FeedForward
from s2s.nn.layers import Layer
from s2s.nn.positions import PositionEmbedding, turns
from s2s.nn.slots import kept
from s2s.nn.state import TransformerState

NEVER = float("-inf")
ARRAYS = ("cache", "history", "keys", "values", "lengths", "positions")  # of the kernels' `State`
PANEL = 32  # outputs of a linear map whose weights lie together
LANES = 16  # places of cross-attention's keys that lie together


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
        light.reader = Reader(light) if encoder_departure(model) is None else None
    return light


def mixing(model: EncoderDecoder, shares: list[float]) -> EncoderDecoder:
    """As EncoderDecoder.mixing, for a model that is prepared for decoding."""
    light = model.mixing(shares)
    if isinstance(model.step, Step):
        read = model.reader is not None and model.reader.reads(model)
        light.step, light.reader = Step(light), Reader(light) if read else None
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
        self.positions = Positions(decoder.embedding.positions, self.head)
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
        place = state.place(decoder=self.decoder, **self.positions.tables(state.length))
        call("decoder_step", place, tokens, scores, logits, top)
        state.steps += 1  # the kernel has advanced the positions
        return logits if output is None else output(top.view(-1, state.rows, self.width)).flatten(0, 1)


class Reader:
    """`EncoderDecoder.encode` and `start` in one, of a model whose linear maps are native.

    Args:
        model: The model.
    """

    def __init__(self, model: EncoderDecoder):
        frontend, encoder, decoder = model.frontend, model.encoder, model.decoder
        self.parts = frontend, encoder, model.bridge, decoder
        stack, layer, embedding = encoder.config, encoder.layers[0], frontend.embedding
        self.positions = Positions(embedding.positions, stack.head)
        sizes = {"D": stack.width, "H": stack.heads, "G": stack.kv_heads or stack.heads, "d": stack.head}
        activation = getattr(layer.feedforward, "activation", "relu")
        self.encoder = Structure(
            "Encoder",
            **sizes,
            N=len(encoder.layers),
            V=embedding.tokens.num_embeddings,
            pre_norm=layer.pre_norm,
            activation=ACTIVATIONS.index(activation),
            log_length=layer.attention.log_length,
            scaled=embedding.scale != 1,
            embedding=embedding.tokens.weight,
            embedded=_norm(embedding.norm),
            norm=_norm(encoder.norm),
            layer=[_layer(layer, None, sizes) for layer in encoder.layers],
        )
        to = decoder.config
        self.shape = to.layers, to.kv_heads or to.heads, to.head
        maps = [layer.cross.key_value.map for layer in decoder.layers]
        self.sides = Structure("Sides", M=len(maps), key_value=maps)

    def reads(self, model: EncoderDecoder) -> bool:
        """Whether the model, perhaps a copy with other parts or another `encode`, has the parts of this one."""
        own = model.frontend, model.encoder, model.bridge, model.decoder
        replaced = vars(model).keys() & {"encode", "_encode", "start"}
        return not replaced and all(one is other for one, other in zip(self.parts, own, strict=True))

    def __call__(self, inputs: Inputs, rows: int) -> "NativeState":
        """The state before the first step, with `rows` rows for each sentence."""
        (source,) = inputs.sources
        tokens, lengths = source.values.contiguous(), source.lengths.contiguous()
        size = int(lengths.max())
        if size < tokens.size(1):
            tokens = tokens[:, :size].contiguous()
        (N, G, d), B, places = self.shape, len(lengths), _whole(size)
        keys = torch.empty(N, B, G, d, places, dtype=torch.float32)
        values = torch.empty(N, B, G, places, d, dtype=torch.float32)
        tables = self.positions.tables(size)
        call("encode", self.encoder, self.sides, tokens, lengths, tables.get("added"), tables.get("turned"), keys,
             values)  # fmt: skip
        return NativeState.of(keys, values, lengths, rows, self.parts[3].most)


class Positions:
    """What the kernels read of positions.

    Args:
        positions: The embedding of positions.
        head: d.
    """

    def __init__(self, positions: PositionEmbedding, head: int):
        self.positions, self.head, self.turned = positions, head, torch.empty(0, head)

    def tables(self, length: int) -> dict[str, Tensor]:
        """`turned`: cosines and sines of the first T >= length positions, fp32 [T, d]; or `added`: what is added to
        embeddings, fp32 [T, D]."""
        if self.positions.kind != "rotary":
            return {"added": self.positions.table_of(length)}
        table = self.turned
        if len(table) < length:
            positions = torch.arange(1 << (length - 1).bit_length())
            self.turned = table = torch.cat(turns(positions, self.head), dim=1)  # as PositionEmbedding.table_of
        return {"turned": table}


def _whole(size: int) -> int:
    """Places of cross-attention for so many positions."""
    return -(-size // LANES) * LANES


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
        keys, values: fp32 [N, B, G, d, S] and [N, B, G, S, d], those of cross-attention; S is a multiple of LANES.
        lengths: int64 [B], source positions without padding.
    """

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int, most: int | None = None):
        padded = nn.functional.pad(key_values, (0, 0, 0, _whole(mask.size(3)) - mask.size(3)))
        self._hold(padded[:, 0].mT.contiguous(), padded[:, 1].contiguous(), mask.flatten(1).sum(1), rows, most)

    @classmethod
    def of(cls, keys: Tensor, values: Tensor, lengths: Tensor, rows: int, most: int | None) -> "NativeState":
        """A state from its own arrays; rows, most: as in TransformerState."""
        state = cls.__new__(cls)
        state._hold(keys, values, lengths, rows, most)
        return state

    def _hold(self, keys: Tensor, values: Tensor, lengths: Tensor, rows: int, most: int | None) -> None:
        self.keys, self.values, self.lengths, self.rows, self.most = keys, values, lengths, rows, most
        B = len(lengths)
        self.cache = keys.new_empty(0)
        self.steps, self.positions = np.zeros(B, np.int64), torch.zeros(B, 1, dtype=torch.int64)
        self.history = torch.zeros(B, rows, 0, dtype=torch.int32)
        self.logits: Tensor | None = None
        self._parts: tuple[Structure | Tensor, ...] = ()
        self._read: dict[str, Structure | Tensor] = {}

    def empty(self, slots: int) -> "NativeState":
        """As TransformerState.empty."""
        (N, _, G, S, d), like = self.values.shape, self.values
        keys, values = like.new_empty(N, slots, G, d, S), like.new_empty(N, slots, G, S, d)
        return NativeState.of(keys, values, self.lengths.new_ones(slots), self.rows, self.most)

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
            N, B, G, d, _ = self.keys.shape
            new = max(self.length, 2 * size, 32)
            cache = self.keys.new_empty(N, 2, B, G, new, self.rows, d)
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
        own = self.cache, self.history, self.keys, self.values, self.lengths, self.positions
        arrays = *own, *parts.values()
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
        if (missing := other.values.size(3) - self.values.size(3)) > 0:
            self.keys = nn.functional.pad(self.keys, (0, missing))
            self.values = nn.functional.pad(self.values, (0, 0, 0, missing))
        call("admit", other.keys, other.values, other.lengths, which, slots, self.keys, self.values, self.lengths)
        self.free(slots)
        self.history[slots] = torch.arange(self.rows, dtype=torch.int32)[:, None]

    def release(self, keep: Tensor, slots: int) -> None:
        """As TransformerState.release."""
        needed, S = self._needed(keep), _whole(int(self.lengths[keep].max()) if len(keep) else 1)
        if self.cache.numel():
            self.cache = kept(self.cache[:, :, :, :, :needed], keep, slots, 2)
        self.history = kept(self.history[:, :, :needed], keep, slots)
        self.keys, self.values = (
            kept(self.keys[..., :S], keep, slots, 1),
            kept(self.values[:, :, :, :S], keep, slots, 1),
        )
        self.lengths = kept(self.lengths, keep, slots)
        self.lengths[len(keep) :] = 1  # a free place needs one visible position: a softmax over none is NaN
        steps = self.steps[keep.numpy()]
        self.steps = np.append(steps, np.zeros(slots - len(steps), np.int64))
        self.positions = kept(self.positions, keep, slots)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.cache.nbytes + self.keys.nbytes + self.values.nbytes
