"""MuE: a source leaves the encoder, and a token the decoder, at the layer that hardly changes its states.

Paper: Tang et al., "You Need Multiple Exiting: Dynamic Early Exiting for Accelerating Unified Vision Language Model",
CVPR 2023, https://arxiv.org/abs/2211.11152.

Similarity is the cosine of the states before and after a layer. In the encoder it is the mean over the real positions
of a row of [B, S, D]; a row whose mean exceeds the threshold is left out of the layers above. In the decoder each
position of [B, T, D] is judged by itself. The layers above its exit compute only its keys and values, from the state at
the exit, so that later tokens can attend to it. That state goes through the norm of the layer's own head
(`model.auxiliary_heads`), or through the last norm, to the output. The exits of a row do not depend on other rows.
`model.auxiliary_heads` of all layers below the top and `criterion=auxiliary` are the paper's layer-wise loss.

Use: decode.encoder_exit_similarity=0.97 decode.decoder_exit_similarity=0.95 decode.backend=eager, of a model trained
with model.auxiliary_heads=[1,2,3,4,5] criterion=auxiliary

Left out: exits of parts of a source, such as the image and the text of the paper: a row has one exit. The compiled
kernels have no exits of the decoder. Where only some rows of a step have left, their attention is computed with that of
the others, and only the products after it are saved. Uncertain: whether the paper compares means of states or, as here,
takes the mean of cosines.
"""

import copy
import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from s2s.backends.prepare import is_native
from s2s.decoding.config import DecodeConfig
from s2s.errors import UserError
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.stack import LayeredEncoder, StackConfig
from s2s.nn.layers import Layer


class Exits:
    """The rows or positions of a forward pass that have left the stack.

    Args:
        threshold: Similarity above which they leave.
        side: `encoder` or `decoder`.
        tally: `SIDE` and `SIDE run` count the layers, and those that were run, over rows or positions.

    Attributes:
        active: Bool [B] or [B, T], those that have not left.
        depth: int64, the layer, from 1, at which they left; 0: they have not.
    """

    def __init__(self, threshold: float, side: str, tally: Counter):
        self.threshold, self.side, self.tally = threshold, side, tally

    def begin(self, like: Tensor) -> None:
        """Begin a pass; like: a tensor of the shape and device of `active`."""
        self.active = torch.ones_like(like, dtype=torch.bool)
        self.depth = torch.zeros_like(like, dtype=torch.int64)

    def run(self) -> int:
        """Count a layer. Returns the number of rows or positions that run it."""
        running = int(self.active.sum())
        self.tally[self.side] += self.active.numel()
        self.tally[f"{self.side} run"] += running
        return running

    def leave(self, similarity: Tensor, layer: int) -> None:
        """Let those leave that are similar enough; layer: the layer, from 1, that has been run."""
        leaves = self.active & (similarity > self.threshold)
        self.active = self.active & ~leaves
        self.depth = self.depth.masked_fill(leaves, layer)


class Wrapped(nn.Module):
    """A layer of a stack with exits. It has the attributes of the layer.

    Args:
        layer: The layer.
        number: Its number, from 1.
        exits: Those of its stack.
    """

    def __init__(self, layer: nn.Module, number: int, exits: Exits):
        super().__init__()
        self.layer, self.number, self.exits = layer, number, exits

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


class RowExit(Wrapped):
    """An encoder layer that only rows run which have not left."""

    def forward(self, x: Tensor, mask: Tensor, *args) -> Tensor:
        """x: [B, S, D]; mask: [B, 1 or H, 1 or S, S], as of Layer; args: of the layer, with a row for each row of
        x."""
        if self.number == 1:
            self.exits.begin(x[:, 0, 0])
        if not (running := self.exits.run()):
            return x
        if running == len(x):
            y = self.layer(x, mask, *args)
        else:
            rows = self.exits.active.nonzero()[:, 0]
            y = x.index_copy(0, rows, self.layer(*(_rows(each, rows) for each in (x, mask, *args))).to(x.dtype))
        seen = mask > float("-inf") if mask.is_floating_point() else mask
        real = seen.any(2)[:, 0]  # [B, S]
        similarity = nn.functional.cosine_similarity(x, y, dim=-1).masked_fill(~real, 0).sum(1) / real.sum(1)
        self.exits.leave(similarity, self.number)
        return y


def _rows(argument: Any, rows: Tensor) -> Any:
    """Rows of a tensor, of the tensors of a mapping, or None."""
    if isinstance(argument, Mapping):
        return {name: value[rows] for name, value in argument.items()}
    return None if argument is None else argument[rows]


class TokenExit(Wrapped):
    """A decoder layer that only positions run which have not left."""

    def forward(self, x: Tensor, *args) -> Tensor:
        """Teacher forcing, as Layer.forward. All positions are computed, and those that have left keep their state."""
        return self._left(x, lambda: self.layer(x, *args))

    def step(self, x: Tensor, state, n: int) -> Tensor:
        """As Layer.step."""
        return self._left(x, lambda: self._step(x, state, n))

    def _left(self, x: Tensor, run) -> Tensor:
        """The states after the layer, which `run` computes from x."""
        if self.number == 1:
            self.exits.begin(x[:, :, 0])
        self.exits.run()
        y = torch.where(self.exits.active[:, :, None], run(), x)
        self.exits.leave(nn.functional.cosine_similarity(x, y, dim=-1), self.number)
        return y

    def _step(self, x: Tensor, state, n: int) -> Tensor:
        """States of one position of every row; those of rows that have left mean nothing."""
        layer, rows = self.layer, self.exits.active
        if rows.all():
            return layer.step(x, state, n)
        qkv = layer.attention.qkv(layer.attention_norm(x) if layer.pre_norm else x)
        if not rows.any():
            state.write(n, qkv, layer.attention)
            return x
        attended = state.attend(n, qkv, layer.attention)[rows]
        z = layer._block(x[rows], layer.attention_norm, lambda _: layer.attention.output(attended))
        if layer.attends:
            z = layer._block(z, layer.cross_norm, self._cross, x, state, n)
        y = x.clone()
        y[rows] = layer._block(z, layer.feedforward_norm, layer.feedforward).to(x.dtype)
        return y

    def _cross(self, z: Tensor, like: Tensor, state, n: int) -> Tensor:
        """Cross-attention of the A rows that run: z [A, D]; like: of the shape [B, K, D] of all rows."""
        cross, rows = self.layer.cross, self.exits.active
        every = torch.zeros_like(like)
        every[rows] = z.to(like.dtype)
        return cross.output(state.cross(n, cross._query(every, state.mask), cross)[rows])


class ExitNorm(nn.Module):
    """The norm at the end of a decoder: a position that left at a layer with a head of its own has the head's norm."""

    def __init__(self, norm: nn.Module, heads: dict[int, nn.Module], exits: Exits):
        super().__init__()
        self.norm, self.heads, self.exits = norm, heads, exits

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        y = self.norm(x)
        for layer, norm in self.heads.items():
            y = torch.where((self.exits.depth == layer)[:, :, None], norm(x), y)
        return y


def leaving(model: EncoderDecoder, config: DecodeConfig, tally: Counter) -> EncoderDecoder:
    """A copy of a model with the exits of the decode options. The weights are shared, and the model does not change.

    Args:
        model: Prepared for decoding.
        config: Decode options.
        tally: As in Exits.

    Raises:
        UserError: the model has no layers of this kind, or compiled steps.
    """
    if (threshold := config.encoder_exit_similarity) is not None:
        said = f"decode.encoder_exit_similarity={threshold:g}"
        encoders = [model.encoder, *model.more_encoders]
        if not all(_attends(encoder) for encoder in encoders):
            raise UserError(f"{said}: the model has no encoder with layers of attention over whole rows")
        first, *more = [_encoder(encoder, Exits(threshold, "encoder", tally)) for encoder in encoders]
        model = model.light(encoder=first, more_encoders=nn.ModuleList(more))
    if (threshold := config.decoder_exit_similarity) is not None:
        said = f"decode.decoder_exit_similarity={threshold:g}"
        if is_native(model):
            raise UserError(f"{said}: requires decode.backend=eager; the compiled kernels have no exits")
        decoder = model.decoder
        if not isinstance(decoder, TransformerDecoder) or not all(type(layer) is Layer for layer in decoder.layers):
            raise UserError(f"{said}: the model has no decoder of Transformer layers")
        model = model.light(decoder=_decoder(decoder, Exits(threshold, "decoder", tally)))
    return model


def _attends(encoder: Any) -> bool:
    """Whether an encoder is a stack of layers with attention, whose rows are those of the batch."""
    if getattr(encoder, "chunked", False):
        return False
    return isinstance(encoder, LayeredEncoder) and isinstance(getattr(encoder, "config", None), StackConfig)


def _encoder(encoder: LayeredEncoder, exits: Exits) -> LayeredEncoder:
    light = copy.copy(encoder)
    if hasattr(light.config, "unpad"):  # rows leave, and so must be rows
        light.config = dataclasses.replace(light.config, unpad=False, unpad_attention=False)
    layers = nn.ModuleList(RowExit(layer, number, exits) for number, layer in enumerate(encoder.layers, 1))
    light._modules = {**encoder._modules, "layers": layers}
    return light


def _decoder(decoder: TransformerDecoder, exits: Exits) -> TransformerDecoder:
    light = copy.copy(decoder)
    layers = nn.ModuleList(TokenExit(layer, number, exits) for number, layer in enumerate(decoder.layers, 1))
    heads = {number: decoder.head_norms[str(number)] for number in decoder.heads}
    light._modules = {**decoder._modules, "layers": layers, "norm": ExitNorm(decoder.norm, heads, exits)}
    return light
