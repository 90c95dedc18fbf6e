"""HAT, the encoder's side: layers of which each update samples a part.

Paper: Wang et al., "HAT: Hardware-Aware Transformers for Efficient Natural Language Processing", ACL 2020,
https://arxiv.org/abs/2005.14187.

A Transformer encoder whose sub-networks have the first n layers, and of each layer the first inner states and heads.

Use: `model.encoder=super model.encoder.layer_counts=[3,4,6] model.encoder.ffn_widths=[512,1024,2048]`

Left out: see s2s/nn/super_stack.py. Uncertain: nothing.
"""

import dataclasses

from torch import nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.encoders.transformer import EncoderConfig, TransformerEncoder
from s2s.nn.super_stack import SuperConfig, SuperStack, super_layers


@dataclasses.dataclass
class SuperEncoderConfig(SuperConfig, EncoderConfig):
    """Options of the encoder."""

    type: str = option("super", "component")


class SuperEncoder(SuperStack, TransformerEncoder):
    """A Transformer encoder that samples sub-networks.

    Args:
        config: The options.
        shared: Options that all parts of the model share.

    Attributes:
        needed: As in TransformerEncoder; counted from the top of the layers that are used.

    Raises:
        UserError: sizes that there are not, or layers of another type.
    """

    Config = SuperEncoderConfig
    side, lists = "encoder", ("ffn_widths", "head_counts")

    def __init__(self, config: SuperEncoderConfig, shared: Shared):
        if config.layer.type != "transformer":
            raise UserError(f"model.encoder.layer={config.layer.type}: model.encoder=super has layers of its own")
        shared.refuse("model.encoder=super", "relative_bias", "bias", "scale_attention")
        if config.head_width is not None:
            raise UserError(f"model.encoder.head_width={config.head_width}: model.encoder=super does not have it")
        super().__init__(config, shared)
        self._begin(config)

    def _layers(self, config: SuperEncoderConfig, shared: Shared) -> nn.ModuleList:
        """As in TransformerEncoder."""
        return super_layers(config, shared.layer(config))

    @property
    def needed(self) -> tuple[int, ...]:
        """Layers below the top whose states the Memory holds."""
        return tuple(number - (self.config.layers - self.depth) for number in self._needed)

    @needed.setter
    def needed(self, numbers: tuple[int, ...]) -> None:
        fewest = min(getattr(self, "depths", [self.config.layers]))
        if numbers and min(numbers) <= self.config.layers - fewest:
            raise UserError(f"model.encoder.layer_counts: {fewest} layers, and the bridge needs more of them")
        self._needed = numbers

    def cut(self) -> None:
        """As in SuperStack."""
        self._needed = self.needed
        super().cut()
