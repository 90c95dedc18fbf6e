"""Speech encoder: Transformer, Conformer or E-Branchformer layers, with or without a CTC output.

Shapes: B utterances, S positions, D width, V vocabulary.
"""

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from s2s.config.schema import group, option
from s2s.errors import UserError
from s2s.models.contract import Memory, Shared, States
from s2s.models.encoders.transformer import layers_of, tags_of
from s2s.models.stack import LayeredEncoder, StackConfig, check_heads
from s2s.nn.attention import context_mask, length_mask
from s2s.nn.feedforward import ACTIVATIONS
from s2s.text.vocabulary import PAD

# Initial probability of the blank.
FIRST_BLANK = 0.8


@dataclasses.dataclass
class SpeechEncoderConfig(StackConfig):
    """Options of the encoder."""

    layers: int = option(12, "number of layers", at_least=1, at_most=1000)
    width: int = option(256, "model width D", at_least=1, at_most=65_536)
    heads: int = option(4, "number of attention heads, which divides the width", at_least=1, at_most=1024)
    ffn_width: int = option(
        1024, "inner width of the feed-forward blocks, and of the gating convolution", at_least=1, at_most=1_048_576
    )
    layer: Any = group("layer", "conformer", "type of the layers")
    activation: str = option("silu", "activation function of the feed-forward blocks", ACTIVATIONS)
    positions: str = option("rotary", "position information; rotary is relative", ("rotary", "sinusoidal"))
    chunk: int | None = option(
        None, "for streaming: size of a chunk; a position sees nothing after its chunk, and convolutions do not look "
        "ahead; 1: a sliding window; null: it sees all positions", at_least=1, at_most=1_000_000,
    )  # fmt: skip
    left_context: int | None = option(
        None, "with chunk: number of positions that are seen before it; null: all", at_least=0, at_most=1_000_000
    )
    right_context: int = option(
        0, "with chunk: number of positions that are seen after it, in each layer", at_least=0, at_most=1_000_000
    )
    ctc_layers: list[int] = option(
        [],
        "numbers (from 1) of layers with a CTC output for the term intermediate_ctc; also the early exits",
        at_least=1,
        at_most=1000,
    )
    self_conditioned: bool = option(False, "layers after ctc_layers also read their CTC output (arXiv:2104.02724)")


class SpeechEncoder(LayeredEncoder):
    """The speech encoder.

    The blank of CTC is PAD, which no target contains, so that CTC has the target vocabulary. CTC after lower layers
    (`ctc_layers`) shares the norm and the output matrix of the last layer.

    Args:
        config: The options.
        shared: Options that all parts of the model share; the encoder has its own positions and activation.
        ctc_size: V of CTC; None: no CTC.

    Attributes:
        confidence: Confidence of CTC at which an utterance stops at one of `exits`; None: no utterance stops early.

    Raises:
        UserError: options that exclude each other, or sizes that do not fit together.
    """

    def __init__(self, config: SpeechEncoderConfig, shared: Shared, ctc_size: int | None):
        super().__init__()
        _check(config, ctc_size)
        self.config, self.width, self.exits = config, config.width, list(config.ctc_layers)
        self.confidence: float | None = None
        shared = dataclasses.replace(shared, positions=config.positions, activation=config.activation)
        self.layers = layers_of(config, shared, causal=config.chunk is not None)
        self.norm = nn.LayerNorm(config.width)
        self.ctc = nn.Linear(config.width, ctc_size) if ctc_size else None
        self.conditioning = nn.Embedding(ctc_size, config.width) if config.self_conditioned else None

    def begin(self) -> None:
        """Change initial weights, after the blocks have drawn theirs."""
        for linear in (linear for layer in self.layers for linear in getattr(layer, "outputs", list)()):
            nn.init.zeros_(linear.weight)  # a layer adds nothing initially (Zhang et al. 2019): CTC sees the input
        if self.ctc is not None:  # mostly blanks initially: training must not get stuck with one label
            odds = FIRST_BLANK / (1 - FIRST_BLANK) * (self.ctc.out_features - 1)
            nn.init.constant_(self.ctc.bias[PAD], math.log(odds))

    def forward(self, source: States) -> Memory:
        """The Memory of a source: the states after `ctc_layers` and of the top, each [B, S, D]. States at padding have
        no meaning."""
        options, x = self.config, source.values
        keys = length_mask(source.lengths, x.size(1))
        real = keys[:, 0, 0, :, None]
        mask = keys
        if options.chunk is not None:
            mask = context_mask(keys, options.chunk, options.left_context, options.right_context)
        states, early, rows = [], [], torch.arange(len(x), device=x.device)
        tags = source.tags_of_positions()
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, mask, None if layer.unpads else real, *tags_of(layer, tags))
            if number in self.exits:
                states.append(self.norm(x))
                if self.conditioning is not None:
                    posterior = self.ctc(states[-1]).softmax(dim=-1)
                    x = x + posterior @ self.conditioning.weight
                if self.confidence is not None:
                    sure = self._confidence(states[-1], real) >= self.confidence
                    early.append((states.pop()[sure], rows[sure]))
                    x, mask, real, rows = (tensor[~sure] for tensor in (x, mask, real, rows))
                    tags = {name: tag[~sure] for name, tag in tags.items()}
                    if not len(rows):
                        break
        top = self.norm(x)
        if early:
            parts, places = zip(*early, (top, rows), strict=True)
            top = torch.cat(parts)[torch.cat(places).argsort()]
        return Memory([*states, top], source.lengths, keys)

    def _confidence(self, states: Tensor, real: Tensor) -> Tensor:
        """Confidence of CTC, [B]: the geometric mean of the best label's probability over real positions; states:
        [B, S, D]."""
        best = self.ctc(states).float().log_softmax(dim=-1).amax(dim=-1)
        real = real[:, :, 0]
        return (best.masked_fill(~real, 0).sum(1) / real.sum(1)).exp()

    def exiting(self, layer: int | None, confidence: float | None) -> "SpeechEncoder":
        """As EncoderDecoder.exiting."""
        light = self.first(layer or len(self.layers))
        light.confidence = confidence
        return light

    def first(self, layers: int) -> "SpeechEncoder":
        """An encoder with the first layers and the last norm only; the weights are shared."""
        light = super().first(layers)
        light.exits = [number for number in self.exits if number < layers]
        return light

    def flops(self, lengths: Tensor) -> int:
        """Floating-point operations of matrix products and convolutions; lengths: of the States, [B] int64. Limited
        context counts as much as full attention."""
        linear = sum(p.numel() for p in self.layers.parameters() if p.dim() > 1)
        if self.ctc is not None:
            linear += self.ctc.weight.numel() * (1 + len(self.exits))
        return 2 * int(lengths.sum()) * linear + 4 * len(self.layers) * self.width * int((lengths * lengths).sum())


def _check(config: SpeechEncoderConfig, ctc_size: int | None) -> None:
    """Raise UserError where options exclude each other."""
    check_heads("model.encoder", config, config.positions)
    kernel = getattr(config.layer, "kernel", 1)
    if kernel % 2 == 0 or config.ffn_width % 2:
        raise UserError(f"model.encoder.layer.kernel={kernel} must be odd, "
                        f"and model.encoder.ffn_width={config.ffn_width} even")  # fmt: skip
    if config.ctc_layers and not ctc_size:
        raise UserError("model.encoder.ctc_layers: need model.ctc=true")
    if any(number >= config.layers for number in config.ctc_layers):
        raise UserError(f"model.encoder.ctc_layers={config.ctc_layers}: layers from 1 to {config.layers - 1} can "
                        "have one; the last layer always has CTC")  # fmt: skip
    if config.self_conditioned and not config.ctc_layers:
        raise UserError("model.encoder.self_conditioned=true: needs model.encoder.ctc_layers, whose CTC is seen")
    if config.chunk is None and (config.left_context is not None or config.right_context):
        raise UserError("model.encoder.left_context and right_context: need model.encoder.chunk; 1 is a window")
