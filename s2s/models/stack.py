"""Stacks of layers: their size, and what encoders made of them share."""

import copy
import dataclasses
from typing import TypeVar

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError


@dataclasses.dataclass
class StackConfig:
    """Size of the encoder or of the decoder."""

    layers: int = option(6, "number of layers", at_least=1, at_most=1000)
    width: int = option(512, "model width D", at_least=1, at_most=65_536)
    heads: int = option(8, "number of attention heads, which divides the width", at_least=1, at_most=1024)
    kv_heads: int | None = option(
        None, "key/value heads, shared by groups of query heads; null: as many as heads", at_least=1, at_most=1024
    )
    ffn_width: int = option(2048, "inner width of the feed-forward blocks", at_least=1, at_most=1_048_576)
    head_width: int | None = option(
        None, "width d of an attention head; null: width / heads", at_least=1, at_most=65_536
    )

    @property
    def head(self) -> int:
        """d"""
        return self.head_width or self.width // self.heads


@dataclasses.dataclass
class DecoderConfig(StackConfig):
    """Size of the decoder."""

    type: str = option("transformer", "component")


def check_heads(key: str, stack: StackConfig, positions: str) -> None:
    """Raise UserError where the heads do not divide the width, or a width is odd.

    Args:
        key: The option that holds the stack, for errors.
        stack: The size.
        positions: `rotary` requires an even head width too.
    """
    if stack.head_width is None and stack.width % stack.heads:
        raise UserError(f"{key}.width={stack.width} is not a multiple of {key}.heads={stack.heads}")
    if stack.kv_heads is not None and (stack.kv_heads < 1 or stack.heads % stack.kv_heads):
        raise UserError(f"{key}.kv_heads={stack.kv_heads} does not divide {key}.heads={stack.heads}")
    if stack.width % 2 or (positions == "rotary" and stack.head % 2):
        raise UserError(f"{key}.width={stack.width}: widths must be even (and with rotary positions, a head's too)")


Encoder = TypeVar("Encoder", bound="LayeredEncoder")


class LayeredEncoder(nn.Module):
    """What encoders of layers `self.layers` of one width `self.width` share."""

    config: StackConfig
    layers: nn.ModuleList
    width: int

    def first(self: Encoder, layers: int) -> Encoder:
        """An encoder with the first layers and the last norm only; the weights are shared."""
        light = copy.copy(self)
        light._modules = {**self._modules, "layers": self.layers[:layers]}
        return light

    def flops(self, lengths: Tensor) -> int:
        """Floating-point operations of the matrix products if every position passes every layer; lengths: of the
        sources, [B] int64."""
        linear = sum(p.numel() for p in self.layers.parameters() if p.dim() == 2)
        pairs = len(self.layers) * self.config.heads * self.config.head * int((lengths * lengths).sum())
        return 2 * int(lengths.sum()) * linear + 4 * pairs
