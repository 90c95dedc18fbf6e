"""Speech to text: an encoder of features (Transformer, Conformer, E-Branchformer) with CTC, the Transformer's decoder,
or both.

Shapes: B utterances, S frames, S' positions after subsampling, F features, D encoder width, V vocabulary, N layers.
"""

import copy
import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.batch import Source
from s2s.errors import UserError
from s2s.models.model import Memory
from s2s.models.transformer import (
    Embedding,
    Layer,
    StackConfig,
    TransformerDecoder,
    check_heads,
    head_norms,
    initialise,
)
from s2s.nn.attention import SelfAttention, context_mask, length_mask
from s2s.nn.convolution import ConvolutionalGating, ConvolutionModule, Merge, Subsampling
from s2s.nn.dropout import dropout
from s2s.nn.feedforward import ACTIVATIONS, FeedForward
from s2s.nn.positions import PositionEmbedding
from s2s.text.vocabulary import PAD

# Positions that a CPU encodes at once in decoding: not faster for being more (tests/benchmarks/joint.py).
TOGETHER = 512
# Probability of the blank at first, where nothing tells labels apart.
FIRST_BLANK = 0.8


@dataclasses.dataclass
class SpeechEncoderConfig(StackConfig):
    """Options of the encoder."""

    layers: int = option(12, "number of layers", at_least=1)
    width: int = option(256, "model width D", at_least=1)
    heads: int = option(4, "attention heads; divides the width", at_least=1)
    ffn_width: int = option(1024, "inner width of the feed-forward blocks, and of the gating convolution", at_least=1)
    type: str = option("conformer", "kind of layer", ("transformer", "conformer", "e_branchformer"))
    activation: str = option("silu", "of the feed-forward blocks", ("silu", *ACTIVATIONS))
    positions: str = option("rotary", "position information; rotary is relative", ("rotary", "sinusoidal"))
    kernel: int = option(15, "positions that a depth-wise convolution spans; odd", at_least=1)
    subsampling: int = option(4, "frames that make a position", (2, 4, 8))
    subsampling_channels: int = option(32, "channels of the convolutions that subsample", at_least=1)
    chunk: int | None = option(
        None, "for streaming: a position sees no further than so many, its chunk, and convolutions do not look ahead; "
        "1: a window; null: everything", at_least=1,
    )  # fmt: skip
    left_context: int | None = option(None, "with chunk: positions seen before the chunk; null: all", at_least=0)
    right_context: int = option(0, "with chunk: positions seen after it, in every layer", at_least=0)
    ctc_layers: list[int] = option(
        [], "layers, from 1, after which there is CTC too: criterion.intermediate; places of early exits", at_least=1
    )
    self_conditioned: bool = option(False, "the layers after them see what CTC says there (2104.02724)")


@dataclasses.dataclass
class SpeechDecoderConfig(StackConfig):
    """Size of the decoder."""

    layers: int = option(6, "number of layers; 0: none, CTC alone", at_least=0)
    width: int = option(256, "model width D", at_least=1)
    heads: int = option(4, "attention heads; divides the width", at_least=1)
    ffn_width: int = option(1024, "inner width of the feed-forward blocks", at_least=1)


@dataclasses.dataclass
class SpeechConfig:
    """Options of a model of speech. Decoder and output are those of the Transformer, pre-norm."""

    norm: ClassVar[str] = "pre"
    max_positions: ClassVar[int] = 0

    type: str = option("speech", "component")
    encoder: SpeechEncoderConfig = option(SpeechEncoderConfig, "encoder")
    decoder: SpeechDecoderConfig = option(SpeechDecoderConfig, "decoder")
    ctc: bool = option(True, "CTC on the encoder: alone, or beside the decoder")
    positions: str = option("sinusoidal", "position information of the decoder", ("sinusoidal", "rotary"))
    activation: str = option("relu", "of the decoder's feed-forward blocks", ACTIVATIONS)
    dropout: float = option(0.1, "of every block's output", at_least=0, below=1)
    embedding_dropout: float | None = option(None, "of the embedded input; null: as dropout", at_least=0, below=1)
    attention_dropout: float = option(0.0, "of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "inside the feed-forward blocks", at_least=0, below=1)
    tie_embeddings: bool = option(True, "one matrix for decoder input and output")
    auxiliary_heads: list[int] = option(
        [], "decoder layers, from 1, whose states predict the target too (DeCRED); criterion.auxiliary", at_least=1
    )


class ConformerLayer(nn.Module):
    """Attention and a convolution, one after the other, between two halves of feed-forward (Gulati et al. 2020)."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        stack = config.encoder
        width, causal = stack.width, stack.chunk is not None
        self.dropout = config.dropout
        self.before, self.after = HalfFeedForward(config), HalfFeedForward(config)
        self.attention_norm, self.attention = nn.LayerNorm(width), _attention(config)
        self.convolution_norm = nn.LayerNorm(width)
        self.convolution = ConvolutionModule(width, stack.kernel, causal)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """x: [B, S', D]; mask: bool [B, 1, 1 or S', S'], true at the keys of each query; real: bool [B, S', 1]."""
        x = self.before(x)
        x = x + dropout(self.attention(self.attention_norm(x), mask), self.dropout, self.training)
        x = x + dropout(self.convolution(self.convolution_norm(x), real), self.dropout, self.training)
        return self.norm(self.after(x))

    def outputs(self) -> list[nn.Linear]:
        """The linear maps whose results are added to the states."""
        return [self.before.block.outer, self.attention.output, self.convolution.outer, self.after.block.outer]


class EBranchformerLayer(nn.Module):
    """Attention and a gating convolution side by side, merged, between two halves of feed-forward (Kim et al. 2022)."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        stack = config.encoder
        width, kernel, causal = stack.width, stack.kernel, stack.chunk is not None
        self.dropout = config.dropout
        self.before, self.after = HalfFeedForward(config), HalfFeedForward(config)
        self.attention_norm, self.attention = nn.LayerNorm(width), _attention(config)
        self.gating_norm = nn.LayerNorm(width)
        self.gating = ConvolutionalGating(width, stack.ffn_width, kernel, causal, config.activation_dropout)
        self.merge = Merge(width, kernel, causal)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """As of a ConformerLayer."""
        x = self.before(x)
        far = dropout(self.attention(self.attention_norm(x), mask), self.dropout, self.training)
        near = dropout(self.gating(self.gating_norm(x), real), self.dropout, self.training)
        x = x + dropout(self.merge(far, near, real), self.dropout, self.training)
        return self.norm(self.after(x))

    def outputs(self) -> list[nn.Linear]:
        """As of a ConformerLayer."""
        return [self.before.block.outer, self.merge.output, self.after.block.outer]


class HalfFeedForward(nn.Module):
    """x + 1/2 of a feed-forward block."""

    def __init__(self, config: SpeechConfig):
        super().__init__()
        stack = config.encoder
        self.dropout = config.dropout
        self.norm = nn.LayerNorm(stack.width)
        self.block = FeedForward(stack.width, stack.ffn_width, stack.activation, config.activation_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S', D] -> [B, S', D]"""
        return x + 0.5 * dropout(self.block(self.norm(x)), self.dropout, self.training)


class TransformerLayer(Layer):
    """The Transformer's encoder layer, called as the others."""

    def __init__(self, config: SpeechConfig):
        stack = config.encoder
        super().__init__(dataclasses.replace(config, positions=stack.positions, activation=stack.activation), stack)

    def forward(self, x: Tensor, mask: Tensor, real: Tensor) -> Tensor:
        """As of a ConformerLayer."""
        return self.encode(x, mask)

    def outputs(self) -> list[nn.Linear]:
        """As of a ConformerLayer."""
        return [self.attention.output, self.feedforward.outer]


LAYERS = {"transformer": TransformerLayer, "conformer": ConformerLayer, "e_branchformer": EBranchformerLayer}


class SpeechModel(TransformerDecoder):
    """An encoder of features, and on it CTC, the Transformer's decoder, or both.

    The blank of CTC is PAD, which no target holds, so that its vocabulary is the target's. CTC after other layers than
    the last (model.encoder.ctc_layers) has the same norm and output matrix.

    Args:
        config: Its options.
        features: F.
        target_size: V.

    Raises:
        UserError: sizes that do not fit together, a model without any output.
    """

    Config = SpeechConfig
    max_length = None

    def __init__(self, config: SpeechConfig, features: int, target_size: int):
        super().__init__()
        self.config, self.features, self.target_vocabulary_size = config, features, target_size
        encoder, decoder = config.encoder, config.decoder
        _check(config)
        self.has_decoder, self.has_ctc = decoder.layers > 0, config.ctc
        self.confidence: float | None = None  # at which an utterance leaves at one of `exits`
        self.subsampling = Subsampling(features, encoder.width, encoder.subsampling, encoder.subsampling_channels)
        self.encoder_positions = PositionEmbedding(encoder.positions, encoder.width, 0)
        self.encoder = nn.ModuleList(LAYERS[encoder.type](config) for _ in range(encoder.layers))
        self.encoder_norm = nn.LayerNorm(encoder.width)
        self.ctc = nn.Linear(encoder.width, target_size) if config.ctc else None
        self.conditioning = nn.Embedding(target_size, encoder.width) if encoder.self_conditioned else None
        self.output = None
        if self.has_decoder:
            self.decoder_embedding = Embedding(nn.Embedding(target_size, decoder.width), config, decoder.width)
            self.decoder = nn.ModuleList(Layer(config, decoder, encoder.width) for _ in range(decoder.layers))
            self.decoder_norm = nn.LayerNorm(decoder.width)
            self.output = nn.Linear(decoder.width, target_size, bias=False)
        self.head_norms = head_norms(config)
        self.apply(initialise)
        for linear in (linear for layer in self.encoder for linear in layer.outputs()):
            nn.init.zeros_(linear.weight)  # a layer adds nothing at first (Zhang et al. 2019): what enters gets to CTC
        if self.ctc is not None:  # mostly blanks at first; else a label may become what is said of all speech, for good
            nn.init.constant_(self.ctc.bias[PAD], math.log(FIRST_BLANK / (1 - FIRST_BLANK) * (target_size - 1)))
        if self.has_decoder and config.tie_embeddings:
            self.output.weight = self.decoder_embedding.tokens.weight

    def encode(self, sources: tuple[Source, ...], tags: Tensor | None = None) -> Memory:
        """The encoder over one source of features. Returns the states, each [B, S', D], after `ctc_layers` and of the
        top; padded positions hold no meaning."""
        (source,) = sources
        if self.training or source.values.device.type != "cpu":
            return self._encode(source)
        # A few rows of about one length at a time: computing on padding takes as long as on what is real.
        order = source.lengths.argsort(descending=True)
        frames, parts, first = source.lengths[order].tolist(), [], 0
        while first < len(frames):
            rows = order[first : first + max(1, TOGETHER // self.memory_length(frames[first]))]
            parts.append(self._encode(Source(source.values[rows, : frames[first]], source.lengths[rows])))
            first += len(rows)
        return parts[0] if len(parts) == 1 and frames == source.lengths.tolist() else _joined(parts, order.argsort())

    def _encode(self, source: Source) -> Memory:
        """`encode` of rows that are computed together."""
        options, dropped = self.config.encoder, self.config.embedding_dropout
        x, lengths = self.subsampling(source.values, source.lengths)
        x = self.encoder_positions(
            x * options.width**0.5
        )  # as embeddings are scaled; else the layers drown it at first
        x = dropout(x, self.config.dropout if dropped is None else dropped, self.training)
        keys = length_mask(lengths, x.size(1))
        real = keys[:, 0, 0, :, None]
        mask = keys
        if options.chunk is not None:
            mask = context_mask(keys, options.chunk, options.left_context, options.right_context)
        states, early, rows = [], [], torch.arange(len(x), device=x.device)
        for number, layer in enumerate(self.encoder, 1):
            x = layer(x, mask, real)
            if number in options.ctc_layers:
                states.append(self.encoder_norm(x))
                if self.conditioning is not None:
                    posterior = self.ctc(states[-1]).softmax(dim=-1)
                    x = x + posterior @ self.conditioning.weight
                if self.confidence is not None:
                    sure = self._confidence(states[-1], real) >= self.confidence
                    early.append((states.pop()[sure], rows[sure]))
                    x, mask, real, rows = (part[~sure] for part in (x, mask, real, rows))
                    if not len(rows):
                        break
        top = self.encoder_norm(x)
        if early:
            parts, places = zip(*early, (top, rows), strict=True)
            top = torch.cat(parts)[torch.cat(places).argsort()]
        return Memory([*states, top], lengths, keys)

    def _confidence(self, states: Tensor, real: Tensor) -> Tensor:
        """The probability of CTC's best label on states [B, S', D], [B]: its geometric mean over the real positions."""
        best = self.ctc(states).float().log_softmax(dim=-1).amax(dim=-1)
        real = real[:, :, 0]
        return (best.masked_fill(~real, 0).sum(1) / real.sum(1)).exp()

    @property
    def exits(self) -> list[int]:
        """As TransformerDecoder.exits."""
        return self.config.encoder.ctc_layers

    def exiting(self, layer: int | None, confidence: float | None) -> "SpeechModel":
        """This model with early exits, as CTC alone (S035); weights are shared.

        Args:
            layer: One of `exits`, the last that is computed; None: all are.
            confidence: An utterance goes no further than the first of `exits` where CTC's best label has this
                probability (its geometric mean over the positions); None: all go on.
        """
        light = copy.copy(self)
        light._modules = dict(self._modules)
        options, last = self.config.encoder, layer or len(self.encoder)
        options = dataclasses.replace(options, layers=last, ctc_layers=[n for n in self.exits if n < last])
        light.config = dataclasses.replace(
            self.config, encoder=options, decoder=dataclasses.replace(self.config.decoder, layers=0)
        )
        light.encoder, light.has_decoder, light.confidence = self.encoder[:last], False, confidence
        return light

    def memory_length(self, length: int) -> int:
        """As EncoderDecoder.memory_length."""
        return self.subsampling.lengths(length)

    def ctc_log_probabilities(self, memory: Memory, which: int = -1) -> Tensor:
        """CTC on the states of an encoder's layer, `memory.states[which]`: log-probabilities [B, S', V], float32 at
        least, of which PAD is the blank."""
        logits = self.ctc(memory.states[which])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)

    def parts(self) -> dict[str, int]:
        """Number of parameters by part, shared ones counted once."""
        decoder = (self.decoder, self.decoder_norm, self.head_norms) if self.has_decoder else ()
        parts = {
            "subsampling": (self.subsampling,),
            "encoder": (self.encoder, self.encoder_norm),
            "decoder": decoder,
            "embeddings and output": (
                getattr(self, "decoder_embedding", None),
                self.output,
                self.ctc,
                self.conditioning,
            ),
        }
        return {
            name: sum({id(p): p.numel() for module in modules if module for p in module.parameters()}.values())
            for name, modules in parts.items()
            if any(modules)
        }

    def flops(self, source: Tensor, target: Tensor) -> int:
        """Floating-point operations of all matrix products and convolutions of a forward pass over pairs of these
        lengths, in frames and tokens, both [B] int64; attention counts whole, causal or not."""
        options, front, frames, bands = self.config.encoder, 0, source, self.features
        for convolution in self.subsampling.convolutions:
            frames, bands = (frames + 1) // 2, (bands + 1) // 2
            front += int(frames.sum()) * bands * convolution.weight.numel()
        S, T = int(frames.sum()), int(target.sum())
        linear = front + S * _weights(self.subsampling.output, self.encoder)
        if self.ctc is not None:
            linear += S * self.ctc.weight.numel() * (1 + len(options.ctc_layers))
        seen = len(self.encoder) * options.width * int((frames * frames).sum())
        if self.has_decoder:
            memory = sum(layer.cross.key_value.weight.numel() for layer in self.decoder)  # these products are over S'
            linear += S * memory + T * (_weights(self.decoder) - memory + self.output.weight.numel())
            seen += len(self.decoder) * self.config.decoder.width * int((target * (target + frames)).sum())
        return 2 * linear + 4 * seen  # attention: scores, and sums of values


def _joined(parts: list[Memory], places: Tensor) -> Memory:
    """Rows that were encoded apart as one batch, in which row i is the one of number places[i] among theirs."""
    size = max(part.top.size(1) for part in parts)
    lengths = torch.cat([part.lengths for part in parts])[places]
    columns = zip(*(part.states for part in parts), strict=True)
    states = [
        torch.cat([nn.functional.pad(x, (0, 0, 0, size - x.size(1))) for x in column])[places] for column in columns
    ]
    return Memory(states, lengths, length_mask(lengths, size))


def _weights(*modules: nn.Module) -> int:
    """Multiplications of these modules' linear maps and depth-wise convolutions for each position."""
    return sum(p.numel() for module in modules for p in module.parameters() if p.dim() > 1)


def _attention(config: SpeechConfig) -> SelfAttention:
    stack = config.encoder
    kv_heads = stack.kv_heads or stack.heads
    rotary = stack.positions == "rotary"
    return SelfAttention(stack.width, stack.heads, kv_heads, config.attention_dropout, causal=False, rotary=rotary)


def _check(config: SpeechConfig) -> None:
    """What concerns several options. Raises UserError."""
    encoder, decoder = config.encoder, config.decoder
    check_heads("model.encoder", encoder, encoder.positions)
    if decoder.layers:
        check_heads("model.decoder", decoder, config.positions)
    elif not config.ctc:
        raise UserError("model.ctc=false and model.decoder.layers=0: the model has no output; choose one of them")
    if encoder.kernel % 2 == 0 or encoder.ffn_width % 2:
        raise UserError(f"model.encoder.kernel={encoder.kernel} must be odd, "
                        f"and model.encoder.ffn_width={encoder.ffn_width} even")  # fmt: skip
    if encoder.ctc_layers and not config.ctc:
        raise UserError("model.encoder.ctc_layers: need model.ctc=true")
    if any(number >= encoder.layers for number in encoder.ctc_layers):
        raise UserError(f"model.encoder.ctc_layers={encoder.ctc_layers}: layers from 1 to {encoder.layers - 1} can "
                        "have one; the last layer always has CTC")  # fmt: skip
    if encoder.self_conditioned and not encoder.ctc_layers:
        raise UserError("model.encoder.self_conditioned=true: needs model.encoder.ctc_layers, whose CTC is seen")
    if encoder.chunk is None and (encoder.left_context is not None or encoder.right_context):
        raise UserError("model.encoder.left_context and right_context: need model.encoder.chunk; 1 is a window")
