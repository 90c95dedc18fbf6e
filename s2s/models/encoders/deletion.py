"""MrT5: a gate after a few encoder layers deletes positions for the layers above and for the decoder.

Paper: Kallini et al., "MrT5: Dynamic Token Merging for Efficient Byte-level Language Models", ICLR 2025,
https://arxiv.org/abs/2410.20771.

After layer `gate_layer`, each state x [B, S, D] has a gate g = -k * sigmoid(-(w . LN(x) + b)), [B, S], between -k and
0. In training, g is added to the logits of all later attention to its position, in the encoder and in the decoder (soft
deletion). Otherwise positions with g < -k / 2 are removed, so that all later layers compute on [B, S', D] (hard
deletion). Both give the same result if every gate is near -k or 0. The gate of the last position, EOS, is always 0: if
all gates could be -k, the softmax would cancel them, and soft deletion would delete nothing. The term `deletion`
controls the share of deleted positions.

With `softmax1`, the encoder's attention weights are exp(x_i) / (1 + sum over j of exp(x_j)), so that a query may attend
to nothing.

Use: `tokenizer=bytes model.encoder=deletion model.encoder.gate_layer=3 criterion=deletion
criterion.deletion.target=0.5`, and `model.encoder.softmax1=true` as in the paper

Left out: softmax1 in the decoder, whose queries may attend to the last position instead. Relative positions: a state
keeps only the position that was added to its embedding, so that rotary positions are refused. Decoders and outputs that
need all source positions are refused, as are several sources. Validation deletes as decoding does. The gate is open
initially; in the authors' code it is random, with b = 1.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Memory, Shared, States
from s2s.models.stack import LayeredEncoder, StackConfig, check_heads
from s2s.nn.attention import length_mask
from s2s.nn.layers import Layer
from s2s.nn.norms import norm_of
from s2s.nn.softmax1 import Softmax1Attention

OPEN = 4.0  # initial b: a gate is at -0.018 k


@dataclasses.dataclass
class DeletionEncoderConfig(StackConfig):
    """Options of the encoder."""

    gate_layer: int = option(3, "layer, from 1, after which positions are deleted", at_least=1, at_most=1000)
    softmax1: bool = option(False, "add 1 to the sum of softmax in attention, so that a query may attend to nothing")
    strength: float = option(30.0, "k: a gate is between -k and 0", at_least=1, at_most=1000)
    type: str = option("deletion", "component")


class DeletionEncoder(LayeredEncoder):
    """A Transformer encoder with a deletion gate between two of its layers.

    Args:
        config: The options.
        shared: Options that all parts of the model share.

    Attributes:
        needed: As in TransformerEncoder.

    Raises:
        UserError: heads that do not divide the width, a gate that is not below the last layer, or rotary positions.
    """

    Config = DeletionEncoderConfig
    exits = ()
    deletes = True  # the memory has a float mask in training, and not all positions of the source

    def __init__(self, config: DeletionEncoderConfig, shared: Shared):
        super().__init__()
        check_heads("model.encoder", config, shared.positions)
        if config.gate_layer >= config.layers:
            raise UserError(f"model.encoder.gate_layer={config.gate_layer}: must be below "
                            f"model.encoder.layers={config.layers}")  # fmt: skip
        shared.refuse("model.encoder=deletion", "relative_bias")
        if shared.positions == "rotary":
            raise UserError("model.encoder=deletion: with model.positions=rotary, states that are put together would "
                            "lose their places; use sinusoidal or learned")  # fmt: skip
        self.config, self.width = config, config.width
        self.layers = nn.ModuleList(Layer(**shared.layer(config)) for _ in range(config.layers))
        if config.softmax1:
            for layer in self.layers:
                layer.attention.__class__ = Softmax1Attention  # the same weights
        self.norm = norm_of(shared.norm_type, config.width) if shared.norm == "pre" else nn.Identity()
        self.gate_norm = nn.LayerNorm(config.width)
        self.gate_weight, self.gate_bias = nn.Parameter(torch.zeros(config.width)), nn.Parameter(torch.tensor(OPEN))
        self.needed: tuple[int, ...] = ()

    def forward(self, source: States) -> Memory:
        """As in TransformerEncoder, but outside of training the memory has S' positions. `auxiliary` holds the `gates`
        before deletion, [B, S], and `gated`, bool [B, S], true at real positions."""
        x, lengths, auxiliary = source.values, source.lengths, {}
        mask = length_mask(lengths, x.size(1))
        states: list[Tensor] = []
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, mask)
            if number in self.needed:
                states.append(x)
            if number == self.config.gate_layer:
                real, gates = mask[:, 0, 0], self._gates(x, lengths)
                auxiliary = {"gates": gates, "gated": real}
                if self.training:
                    mask = gates.masked_fill(~real, float("-inf"))[:, None, None]
                else:
                    keep, lengths = self._kept(gates, real)
                    x, *states = (taken(each, keep) for each in (x, *states))
                    mask = length_mask(lengths, x.size(1))
        return Memory([*states, self.norm(x)], lengths, mask, auxiliary=auxiliary)

    def _gates(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The gates: [B, S, D] -> [B, S], in float32 or wider, between -k and 0; 0 at the last position."""
        logits = (self.gate_norm(x).to(self.gate_weight.dtype) * self.gate_weight).sum(-1) + self.gate_bias
        return (-self.config.strength * (-logits).sigmoid()).scatter(1, lengths[:, None] - 1, 0.0)

    def _kept(self, gates: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        """The positions that are kept, int64 [B, S'], with arbitrary positions as padding, and their number in each
        row, [B]."""
        keep = (gates >= -self.config.strength / 2) & real
        lengths = keep.sum(1)
        return (~keep).to(torch.uint8).sort(dim=1, stable=True).indices[:, : int(lengths.max())], lengths


def taken(x: Tensor, places: Tensor) -> Tensor:
    """Gather positions of each row: x [B, S, D], places int64 [B, S']. Returns [B, S', D]."""
    return x.gather(1, places[:, :, None].expand(-1, -1, x.size(2)))
