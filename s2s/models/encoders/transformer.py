"""The Transformer encoder.

Shapes: B sentences, S source positions, P real tokens of all rows, D width.
"""

import dataclasses
from typing import Any

from torch import Tensor, nn

from s2s import registry
from s2s.config.schema import group, option
from s2s.errors import UserError
from s2s.models.contract import OPTIONAL, Memory, Shared, States
from s2s.models.stack import LayeredEncoder, StackConfig, check_heads
from s2s.nn.attention import length_mask, segment_mask
from s2s.nn.norms import norm_of
from s2s.nn.relative_bias import RelativeBias
from s2s.nn.unpad import RealTokens, Sequences

UNPAD_FROM = 0.04  # share of padding from which a CPU is faster without it (tests/benchmarks/unpad.py)


@dataclasses.dataclass
class EncoderConfig(StackConfig):
    """Size of the encoder, its layers, and how it computes."""

    unpad: bool | None = option(
        None,
        f"compute on real tokens only; null: on a CPU, where over {UNPAD_FROM:.0%} of a batch is padding (no GPU was "
        "measured)",
    )
    layer: Any = group("layer", "transformer", "type of the layers")
    unpad_attention: bool = option(
        False, "leave padding out of attention too, which takes sentences of equal length together; includes unpad"
    )
    type: str = option("transformer", "component")


class TransformerEncoder(LayeredEncoder):
    """The Transformer encoder.

    Args:
        config: The options.
        shared: Options that all parts of the model share.

    Attributes:
        needed: Layers below the top, from 1, whose states the Memory holds beside the top.
        segmented: Whether the layers separate the examples of a packed row.

    Raises:
        UserError: heads that do not divide the width.
    """

    Config = EncoderConfig
    exits = ()

    def __init__(self, config: EncoderConfig, shared: Shared):
        super().__init__()
        check_heads("model.encoder", config, shared.positions)
        self.config, self.width = config, config.width
        self.layers = self._layers(config, shared)
        self.unpads = all(getattr(layer, "unpads", False) for layer in self.layers)
        if config.unpad_attention and config.unpad is False:
            raise UserError("model.encoder.unpad_attention=true: includes unpad; leave model.encoder.unpad=false out")
        if (config.unpad or config.unpad_attention) and not self.unpads:
            key = "unpad" if config.unpad else "unpad_attention"
            raise UserError(f"model.encoder.{key}=true: model.encoder.layer={config.layer.type} sees its "
                            f"neighbours, and needs rows with their padding; leave {key} out")  # fmt: skip
        self.segmented = all(getattr(layer, "segmented", False) for layer in self.layers)
        self.needed: tuple[int, ...] = ()
        self.norm = norm_of(shared.norm_type, config.width) if shared.norm == "pre" else nn.Identity()
        self.relative = relative_bias_of(config, shared, self.layers)
        if self.relative is not None and config.unpad_attention:
            raise UserError("model.encoder.unpad_attention=true: does not have model.positions=relative_bias; "
                            "model.encoder.unpad=true does")  # fmt: skip

    def _layers(self, config: EncoderConfig, shared: Shared) -> nn.ModuleList:
        """The layers."""
        return layers_of(config, shared)

    def forward(self, source: States) -> Memory:
        """The Memory of a source: the states of the layers in `needed` and of the top, each [B, S, D]. States at
        padding have no meaning."""
        x, segments = source.values, source.packing and source.packing.segments
        keys = length_mask(source.lengths, x.size(1))
        mask = keys if segments is None else keys & segment_mask(segments, segments)
        mask = mask if self.relative is None else self.relative.masked(mask)
        real = self._real(keys[:, 0, 0], source)
        x = x if real is None else real.unpad(x)
        padded, tags = keys[:, 0, 0, :, None], self._tags(source, real)
        states = []
        for number, layer in enumerate(self.layers, 1):
            positions = real if getattr(layer, "unpads", False) else padded
            x = layer(x, mask, positions, *tags_of(layer, tags))
            if number in self.needed:
                states.append(x)
        states = [*states, self.norm(x)]
        return Memory([x if real is None else real.pad(x) for x in states], source.lengths, keys, segments)

    def _tags(self, source: States, real: RealTokens | None) -> dict[str, Tensor]:
        """The value numbers of each tag, if any layer reads tags."""
        if not any(getattr(layer, "tags", ()) for layer in self.layers):
            return {}
        values, shape = source.tags_of_positions(), source.values.shape[:2]
        return values if real is None else {name: real.unpad(tag.expand(shape)) for name, tag in values.items()}

    def _real(self, real: Tensor, source: States) -> RealTokens | None:
        """The real tokens, if layers compute on them only; real: bool [B, S]."""
        if self.config.unpad_attention:
            return Sequences(real, source.packing and source.packing.segments)
        return RealTokens(real) if self._unpads(source) else None

    def _unpads(self, source: States) -> bool:
        """Whether to compute on real tokens only."""
        if not self.unpads:
            return False
        if self.config.unpad is not None:
            return self.config.unpad
        positions = source.values.size(0) * source.values.size(1)
        return source.values.device.type == "cpu" and int(source.lengths.sum()) < (1 - UNPAD_FROM) * positions


def tags_of(layer: nn.Module, tags: dict[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """The further arguments of a layer. A layer with an attribute `tags` receives the value numbers of the tags that it
    names: int64 [B, 1]; [B, S] where rows are packed; [P] of real tokens only."""
    return ({name: tags[name] for name in layer.tags},) if hasattr(layer, "tags") else ()


def relative_bias_of(config, shared: Shared, layers: nn.ModuleList) -> RelativeBias | None:
    """The relative position bias of the layers of an encoder; None: there is none. Raises UserError: the layers cannot
    have it."""
    relative = shared.relative_bias(config.heads, causal=False)
    if relative is not None and not all(getattr(layer, "biased", False) for layer in layers):
        raise UserError(f"model.positions=relative_bias: model.encoder.layer={config.layer.type} does not have it")
    return relative


def layers_of(config, shared: Shared, causal: bool = False) -> nn.ModuleList:
    """The layers of an encoder.

    Args:
        config: The size of the stack, and `layer`, the options of each layer.
        shared: Options that all parts of the model share.
        causal: Whether convolutions see no later position.

    Raises:
        UserError: a norm or another option that this type of layer does not have.
    """
    kind = registry.find("layer", config.layer.type)
    if shared.norm not in kind.norms:
        raise UserError(f"model.norm={shared.norm}: model.encoder.layer={config.layer.type} has {kind.norms[0]} only")
    has, part = getattr(kind, "optional", ()), f"model.encoder.layer={config.layer.type}"
    shared.refuse(part, *(name for name, argument in OPTIONAL.items() if argument not in has))
    if config.head_width is not None and "head_width" not in has:
        raise UserError(f"model.encoder.head_width={config.head_width}: {part} does not have it")
    options = shared.layer(config)
    if len(kind.norms) == 1:
        options.pop("pre_norm")
    own = {field.name: getattr(config.layer, field.name) for field in dataclasses.fields(config.layer)}
    own.pop("type")
    if kind.convolves:
        own["causal"] = causal
    if hasattr(kind, "tags"):
        own["tag_sizes"] = shared.tags
    return nn.ModuleList(kind(**options, **own) for _ in range(config.layers))
