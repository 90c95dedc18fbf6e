"""No residual connection in one encoder layer: states are bound less to the positions of their tokens.

Paper: Liu et al., "Improving Zero-Shot Translation by Disentangling Positional Information", ACL 2021,
https://arxiv.org/abs/2012.15127.

In one layer of the encoder, self-attention has no residual connection: its input x [B, S, D] becomes attention(norm(x))
instead of x + attention(norm(x)), and norm(attention(x)) with norms after blocks. A state is then a mixture of the
values that it attends to, and not bound to its own token, so that an order of words that only the source has is lost
more easily. The layer is the middle one; SixT+ (Chen et al. 2022, https://arxiv.org/abs/2110.08547) takes the last but
one of XLM-R, whose weights `train.init.encoder` copies: the weights are those of the usual encoder.

Use: model.encoder=no_residual model.encoder.free_layer=5

Left out: queries made of positions alone; uncertain: whether SixT+ leaves out the residual connection of the
feed-forward block, too, which stays here.
"""

import dataclasses

from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.encoders.transformer import EncoderConfig, TransformerEncoder
from s2s.nn.dropout import dropout
from s2s.nn.layers import Layer
from s2s.nn.unpad import RealTokens


@dataclasses.dataclass
class NoResidualConfig(EncoderConfig):
    """Options of the encoder."""

    free_layer: int | None = option(
        None, "layer without a residual connection around self-attention, from 1; null: the middle one", at_least=1
    )
    type: str = option("no_residual", "component")


class FreeLayer(Layer):
    """A Transformer layer of an encoder without a residual connection around self-attention."""

    def encode(self, x: Tensor, mask: Tensor | None, real: RealTokens | None = None) -> Tensor:
        """As in Layer."""
        y = self.attention(self.attention_norm(x) if self.pre_norm else x, mask, real)
        y = dropout(y, self.dropout, self.training)
        return self._block(y if self.pre_norm else self.attention_norm(y), self.feedforward_norm, self.feedforward)


class NoResidualEncoder(TransformerEncoder):
    """A Transformer encoder with one free layer. The arguments are those of TransformerEncoder.

    Raises:
        UserError: there is no such layer, or layers are of another type.
    """

    Config = NoResidualConfig
    weights_of = "transformer"  # the type of encoder whose weights have the same names and meaning

    def _layers(self, config: NoResidualConfig, shared: Shared) -> nn.ModuleList:
        """As in TransformerEncoder."""
        number = config.free_layer or (config.layers + 1) // 2
        if number > config.layers:
            raise UserError(f"model.encoder.free_layer={number}: there are {config.layers} layers")
        layers = super()._layers(config, shared)
        if type(layers[number - 1]) is not Layer:
            raise UserError(f"model.encoder=no_residual: model.encoder.layer={config.layer.type} does not go with it")
        free = FreeLayer.__new__(FreeLayer)
        free.__dict__.update(layers[number - 1].__dict__)
        layers[number - 1] = free
        return layers
