"""A language model: the Transformer's decoder without a source, to be trained on targets and to rate hypotheses.

For the rest of the toolkit it is an encoder-decoder that looks at nothing of its source but how many sentences there
are: so it has the criterions, the trainer, the states and the kernels of one.

Shapes: B sentences, T target positions, K rows a sentence, D width, V vocabulary, N layers, G key/value heads, d head
width.
"""

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.batch import Packing, Source
from s2s.models.model import DecoderOutput, Memory
from s2s.models.transformer import (
    Embedding,
    Layer,
    StackConfig,
    TransformerDecoder,
    TransformerState,
    check_heads,
    initialise,
)
from s2s.nn.attention import length_mask, segment_mask
from s2s.nn.feedforward import ACTIVATIONS


@dataclasses.dataclass
class LanguageModelConfig:
    """Options of a language model, pre-norm."""

    norm: ClassVar[str] = "pre"
    max_positions: ClassVar[int] = 0
    auxiliary_heads: ClassVar[tuple[int, ...]] = ()

    type: str = option("transformer_lm", "component")
    decoder: StackConfig = option(StackConfig, "its layers")
    positions: str = option("sinusoidal", "position information", ("sinusoidal", "rotary"))
    activation: str = option("relu", "of the feed-forward blocks", ACTIVATIONS)
    dropout: float = option(0.1, "of every block's output", at_least=0, below=1)
    embedding_dropout: float | None = option(None, "of the embedded input; null: as dropout", at_least=0, below=1)
    attention_dropout: float = option(0.0, "of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "inside the feed-forward blocks", at_least=0, below=1)
    tie_embeddings: bool = option(True, "one matrix for input and output")


class CausalLayer(Layer):
    """A decoder layer without cross-attention."""

    def __init__(self, config: LanguageModelConfig):
        super().__init__(config, config.decoder)
        self.attention.causal = True

    def step(self, x: Tensor, state: TransformerState, n: int) -> Tensor:
        """As Layer.step."""
        x = self._block(x, self.attention_norm, self.attention.step, state, n)
        return self._block(x, self.feedforward_norm, self.feedforward)


class LanguageModel(TransformerDecoder):
    """The language model.

    Args:
        config: Its options.
        size: V.

    Raises:
        UserError: widths and heads that do not fit together.
    """

    Config = LanguageModelConfig
    max_length = None

    def __init__(self, config: LanguageModelConfig, size: int):
        super().__init__()
        stack = config.decoder
        check_heads("model.decoder", stack, config.positions)
        self.config, self.target_vocabulary_size = config, size
        self.decoder_embedding = Embedding(nn.Embedding(size, stack.width), config, stack.width)
        self.decoder = nn.ModuleList(CausalLayer(config) for _ in range(stack.layers))
        self.decoder_norm = nn.LayerNorm(stack.width)
        self.output = nn.Linear(stack.width, size, bias=False)
        self.apply(initialise)
        if config.tie_embeddings:
            self.output.weight = self.decoder_embedding.tokens.weight

    def encode(self, sources: tuple[Source, ...], tags: Tensor | None = None) -> Memory:
        """Nothing of a source, whatever it is, but that it is there."""
        (source,) = sources
        segments = source.packing and source.packing.segments
        return Memory([], source.lengths, length_mask(source.lengths, source.values.size(1)), segments)

    def decode(self, memory: Memory, decoder_input: Tensor, packing: Packing | None = None) -> DecoderOutput:
        """As TransformerDecoder.decode."""
        segments, positions = packing or (None, None)
        mask = None if segments is None else segment_mask(segments, segments).tril()
        x = self.decoder_embedding(decoder_input, positions=positions)
        for layer in self.decoder:
            x = layer(x, mask)
        return DecoderOutput(self.decoder_norm(x), self.output)

    def start(self, memory: Memory, rows: int) -> TransformerState:
        """As TransformerDecoder.start: every source is one position that nobody looks at."""
        stack, parameter = self.config.decoder, self.decoder_norm.weight
        size = len(self.decoder), 2, len(memory.lengths), stack.kv_heads or stack.heads, 1, stack.width // stack.heads
        mask = torch.ones(len(memory.lengths), 1, 1, 1, dtype=torch.bool, device=parameter.device)
        return self.State(parameter.new_zeros(size), mask, rows)

    def parts(self) -> dict[str, int]:
        """Number of parameters by part, shared ones counted once."""
        total = sum(p.numel() for p in self.parameters())
        layers = sum(p.numel() for part in (self.decoder, self.decoder_norm) for p in part.parameters())
        return {"embeddings and output": total - layers, "decoder": layers}

    def flops(self, source: Tensor, target: Tensor) -> int:
        """As Transformer.flops."""
        linear = sum(p.numel() for p in self.decoder.parameters() if p.dim() == 2) + self.output.weight.numel()
        seen = len(self.decoder) * self.config.decoder.width * int((target * target).sum())
        return 2 * int(target.sum()) * linear + 4 * seen
