"""Which classes a fast path may replace: a class has to declare it.

A kernel, an export or a prepacked weight replaces the code of one known class. A subclass may compute something else,
so it takes the plain path by default. Two declarations in the body of a subclass change that:

- `stands_for = ITS_PARENT`: the subclass computes the same as its parent, and every fast path may replace it.
- `steps_for = ITS_PARENT`: only the compiled step may replace it. Exports, which read weights by themselves, refuse it.
"""

import inspect
from collections.abc import Collection
from typing import Any

from torch import nn

from s2s.models.bridges.top import TopBridge
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.encoders.transformer import TransformerEncoder
from s2s.models.frontends.tokens import TokenFrontend
from s2s.nn.attention import CrossAttention, SelfAttention
from s2s.nn.embedding import Embedding
from s2s.nn.feedforward import FeedForward
from s2s.nn.layers import Layer
from s2s.nn.positions import PositionEmbedding

BLOCKS = {Embedding, PositionEmbedding, Layer, SelfAttention, CrossAttention, FeedForward, nn.Linear, nn.LayerNorm,
          nn.Identity, nn.Embedding, nn.ModuleList, nn.ModuleDict}  # fmt: skip
ACTIVATIONS = ("relu", "gelu", "swiglu", "silu")
STEP = ("start", "step")
READING = ("encode", "_encode", "_encode_at_once", "_seen")
WHOLE = ("encode", "decode", "cross_attention", *STEP)


def step_departure(model: nn.Module) -> str | None:
    """Why the compiled step cannot replace a model's step, in words; None: it can."""
    if not isinstance(model, EncoderDecoder):
        return f"there are none for a {type(model).__name__}"
    if model.decoder is None:
        return None
    parts = {"decoder": TransformerDecoder, "output": nn.Linear}
    return _overridden(model, STEP) or _departure(model, parts, ("stands_for", "steps_for"))


def encoder_departure(model: nn.Module) -> str | None:
    """Why the compiled encoder cannot replace that of a model whose step is compiled, in words; None: it can. It
    computes the decoder's keys and values of the source too."""
    if model.encoder is None or model.decoder is None:
        return "the model has no encoder or no decoder"
    if model.more_encoders or model.more_frontends or model.tags:
        return "the model has several sources, or tags"
    parts = {"frontend": TokenFrontend, "encoder": TransformerEncoder, "bridge": TopBridge}
    if other := _overridden(model, READING) or _departure(model, parts, ("stands_for", "steps_for")):
        return other
    encoder: Any = model.encoder
    decoder: Any = model.decoder
    blocks = {layer.feedforward.outer.weight.shape for layer in encoder.layers}
    if len(blocks) > 1:
        return "the feed-forward blocks of the encoder differ"
    if _definer(decoder, "_start") is not TransformerDecoder or not decoder.attends:
        return f"{type(decoder).__name__} has keys and values of its own"
    return None


def departure(model: nn.Module, more: Collection[type] = ()) -> str | None:
    """Where a model computes something other than the Transformer, in words; None: nowhere.

    Args:
        model: Any model.
        more: Classes of blocks that are no departure either. If there are any, nor are options of known blocks.
    """
    if not isinstance(model, EncoderDecoder):
        return f"the model is a {type(model).__name__}"
    parts = {"frontend": TokenFrontend, "encoder": TransformerEncoder, "bridge": TopBridge,
             "decoder": TransformerDecoder, "output": nn.Linear}  # fmt: skip
    return _overridden(model, WHOLE) or _departure(model, parts, more=more)


def lacks_blocks(model: nn.Module) -> str | None:
    """Why a model cannot advance by several positions at once, in words; None: it can. A class that overrides `step`
    has to override `step_block` too."""
    for part in filter(None, (model, getattr(model, "decoder", None))):
        if getattr(part, "step_block", None) is None:
            return f"a {type(part).__name__} has no step_block"
        step, block = _definer(part, "step"), _definer(part, "step_block")
        if step is not None and block is not None and step is not block and issubclass(step, block):
            return f"{type(part).__name__} has a step of its own and no step_block"
    return None


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map, or stands for one."""
    return nn.Linear in (type(module), type(module).__dict__.get("stands_for"))


def ours(module: nn.Module) -> bool:
    """Whether prepacked linear maps can replace those of a module, because it does nothing with them but call them.
    This holds for modules of this toolkit, and for classes with `packs = True` in their body."""
    kind = type(module)
    return kind.__module__.split(".")[0] == "s2s" or kind.__dict__.get("packs", False)


def _overridden(model: nn.Module, names: tuple[str, ...]) -> str | None:
    for name in names:
        definer = _definer(model, name)
        if definer is not EncoderDecoder and definer.__dict__.get("stands_for") is None:
            return f"{type(model).__name__} has a `{name}` of its own"
    return None


def _departure(model: nn.Module, parts: dict[str, type], claims: tuple[str, ...] = ("stands_for",),
               more: Collection[type] = ()) -> str | None:  # fmt: skip
    for place, expected in parts.items():
        for name, module in getattr(model, place).named_modules(prefix=place):
            kind = type(module)
            wanted = {expected} if name == place else {*BLOCKS, *more}
            if not wanted & {kind, *(kind.__dict__.get(claim) for claim in claims)}:
                return f"{name} is a {kind.__name__}"
            if module._forward_hooks or module._forward_pre_hooks:
                return f"{name} has a hook"
            if not more and (option := _option(module)):
                return f"{name} has {option}"
    return None


def _option(module: nn.Module) -> str | None:
    """An option of a block that no fast path has, in words; None: it has none."""
    if isinstance(module, FeedForward) and module.activation not in ACTIVATIONS:
        return f"model.activation={module.activation}"
    if isinstance(module, SelfAttention | CrossAttention) and module.scale is not None:
        return "model.scale_attention=false"
    if isinstance(module, TransformerDecoder) and module.scale is not None:
        return "model.scale_output=true"
    return None


def _definer(thing: object, name: str) -> type | None:
    """The class that defines a method of an object; None: there is no such method."""
    return next((kind for kind in inspect.getmro(type(thing)) if name in kind.__dict__), None)
