"""Recurrent encoders: LSTM or GRU layers, unidirectional or bidirectional, with residual connections.

Paper: Sutskever et al., "Sequence to Sequence Learning with Neural Networks", NIPS 2014,
https://arxiv.org/abs/1409.3215; Bahdanau et al., "Neural Machine Translation by Jointly Learning to Align and
Translate", ICLR 2015, https://arxiv.org/abs/1409.0473, for both directions; Wu et al., "Google's Neural Machine
Translation System", 2016, https://arxiv.org/abs/1609.08144, for residual layers.

Each layer is a recurrence over the states below, [B, S, D] -> [B, S, D]. A bidirectional layer has width D/2 in each
direction. The direction from right to left begins at the last real position of each row, so that padding has no effect.
Packed rows are split into examples, so that no example sees its neighbours. From layer `residual` on, the input of a
layer is added to its output.

Use: model=lstm, or model.encoder=lstm model.encoder.bidirectional=first model.encoder.residual=3 model.positions=none

With `model.decoder.start=encoder` the memory also has the last states of all layers.

Left out: peepholes and projections, which later work found not to matter. GNMT's bottom layer has width D in each
direction; here it has D/2, so that all layers have one width.
"""

import dataclasses

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Memory, Shared, States
from s2s.models.stack import LayeredEncoder
from s2s.nn.attention import length_mask
from s2s.nn.dropout import dropout
from s2s.nn.packed_rows import Examples
from s2s.nn.recurrent import Bidirectional, Recurrence


@dataclasses.dataclass
class LstmEncoderConfig:
    """Options of a recurrent encoder."""

    type: str = option("lstm", "component")
    layers: int = option(2, "number of layers", at_least=1, at_most=1000)
    width: int = option(512, "model width D", at_least=1, at_most=65_536)
    input_width: int | None = option(
        None, "width of the embedded source, which the first layer reads; null: width", at_least=1, at_most=65_536
    )
    bidirectional: str = option(
        "all", "layers that read in both directions: all, the first or none", ("all", "first", "none")
    )
    residual: int = option(
        0, "the first layer, from 2, whose input is added to its output; 0: none", at_least=0, at_most=1000
    )


@dataclasses.dataclass
class GruEncoderConfig(LstmEncoderConfig):
    """Options of a recurrent encoder."""

    type: str = option("gru", "component")


class RecurrentLayer(nn.Module):
    """One recurrent layer.

    Args:
        kind: `lstm` or `gru`.
        inputs: Width of the input.
        width: D.
        both: Whether the layer is bidirectional.
        residual: Whether the input is added to the output.
        dropout: Dropout probability of the output.
    """

    def __init__(self, kind: str, inputs: int, width: int, both: bool, residual: bool, dropout: float):
        super().__init__()
        self.both, self.residual, self.dropout = both, residual, dropout
        self.recurrence = (Bidirectional if both else Recurrence)(kind, inputs, width)

    def forward(self, x: Tensor, lengths: Tensor, last: bool = False) -> tuple[Tensor, list[Tensor]]:
        """Run the layer.

        Args:
            x: [B, S, width of the input], right-padded.
            lengths: [B] int64.
            last: Whether the last states are needed.

        Returns:
            [B, S, D]; and, if they are needed, the states after the last real position, one or two tensors [B, D].
        """
        if self.both:
            y, states = self.recurrence(x, lengths, last)
        else:
            y, states = self.recurrence(x, lengths=lengths if last else None)
        y = dropout(y, self.dropout, self.training)
        return x + y if self.residual else y, states


class RecurrentEncoder(LayeredEncoder):
    """The recurrent encoder.

    Args:
        config: The options.
        shared: Options that all parts of the model share.

    Attributes:
        needed: Layers below the top, from 1, whose states the Memory holds beside the top.
        gives_last: Whether the Memory holds the last states of all layers, too.

    Raises:
        UserError: an odd width of bidirectional layers, or options that recurrent layers do not have.
    """

    Config = LstmEncoderConfig
    segmented = True
    exits = ()

    def __init__(self, config: LstmEncoderConfig, shared: Shared):
        super().__init__()
        check("model.encoder", config, shared)
        if config.width % 2 and config.bidirectional != "none":
            raise UserError(f"model.encoder.width={config.width}: two directions need an even width")
        self.config, self.width = config, config.width
        several = {"all": config.layers, "first": 1, "none": 0}[config.bidirectional]
        self.layers = nn.ModuleList(
            RecurrentLayer(config.type, config.width if n else config.input_width or config.width, config.width,
                           n < several, residual(config, n), shared.dropout)
            for n in range(config.layers)
        )  # fmt: skip
        self.needed: tuple[int, ...] = ()
        self.gives_last = False

    def forward(self, source: States) -> Memory:
        """The Memory of a source: the states of the layers in `needed` and of the top, each [B, S, D]. States at
        padding have no meaning."""
        x, lengths, packing = source.values, source.lengths, source.packing
        examples = None if packing is None else Examples(*packing)
        if examples is not None:
            x, lengths = examples.rows(x), examples.lengths
        states, last = [], []
        for number, layer in enumerate(self.layers, 1):
            x, after = layer(x, lengths, self.gives_last)
            last += after
            if number in self.needed or number == len(self.layers):
                states.append(x if examples is None else examples.back(x))
        keys = length_mask(source.lengths, source.values.size(1))
        end = torch.stack(last, 1) if self.gives_last else None
        return Memory(states, source.lengths, keys, packing and packing.segments, last=end)

    def flops(self, lengths: Tensor) -> int:
        """Floating-point operations of the matrix products; lengths: of the sources, [B] int64."""
        return 2 * int(lengths.sum()) * sum(p.numel() for p in self.layers.parameters() if p.dim() == 2)


class GruEncoder(RecurrentEncoder):
    """The encoder with GRU layers."""

    Config = GruEncoderConfig
    segmented = True


def residual(config, number: int) -> bool:
    """Whether a layer of a recurrent stack adds its input to its output; number: of the layer, from 0."""
    return 1 < config.residual <= number + 1


def check(key: str, config, shared: Shared) -> None:
    """Raise UserError for options that a recurrent stack does not have, or that exclude each other."""
    if config.residual == 1 or config.residual > config.layers:
        raise UserError(f"{key}.residual={config.residual}: a layer from 2 to {key}.layers={config.layers}, or 0")
    shared.refuse(f"{key}={config.type}", "log_length_scale", "relative_bias", "norm_type", "bias", "scale_attention",
                  "scale_output")  # fmt: skip
    if shared.norm != "pre":
        raise UserError(f"model.norm={shared.norm}: {key}={config.type} has no norms; leave model.norm as it is")
