"""A language model: the Transformer's decoder without a memory, to be trained on targets and to rate hypotheses.

For the rest of the toolkit it is an encoder-decoder that looks at nothing of its source but how many sentences there
are: so it has the criterions, the trainer, the states and the kernels of one.

Shapes: V vocabulary.
"""

import dataclasses

from torch import nn

from s2s.config.schema import option
from s2s.data.spec import Spec, check_sources
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import shared_options
from s2s.nn.embedding import Embedding
from s2s.nn.feedforward import ACTIVATIONS


@dataclasses.dataclass
class LanguageModelConfig:
    """Options of a language model, pre-norm."""

    type: str = option("transformer_lm", "component")
    decoder: DecoderConfig = option(DecoderConfig, "its layers")
    positions: str = option("sinusoidal", "position information", ("sinusoidal", "rotary"))
    activation: str = option("relu", "of the feed-forward blocks", ACTIVATIONS)
    dropout: float = option(0.1, "of every block's output", at_least=0, below=1)
    embedding_dropout: float | None = option(None, "of the embedded input; null: as dropout", at_least=0, below=1)
    attention_dropout: float = option(0.0, "of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "inside the feed-forward blocks", at_least=0, below=1)
    log_length_scale: bool = option(
        False, "logits of attention times the logarithm of the number of keys, for sequences longer than in training"
    )
    tie_embeddings: bool = option(True, "one matrix for input and output")


class LanguageModel(EncoderDecoder):
    """The language model.

    Args:
        config: Its options.
        spec: No sources.

    Raises:
        UserError: widths and heads that do not fit together, or a task with a source.
    """

    Config = LanguageModelConfig

    def __init__(self, config: LanguageModelConfig, spec: Spec):
        super().__init__()
        check_sources(spec, (), f"model={config.type}")
        self.config, self.target_vocabulary_size = config, spec.target_size
        shared, width = shared_options(config, spec), config.decoder.width
        tokens = nn.Embedding(spec.target_size, width)
        embedding = Embedding(tokens, config.positions, 0, shared.embedding_dropout)
        decoder = TransformerDecoder(config.decoder, shared, embedding, memory_width=None)
        output = nn.Linear(width, spec.target_size, bias=False)
        self.assemble(None, None, None, decoder, output)
        self.draw(embedding, decoder.layers, output)
        if config.tie_embeddings:
            output.weight = tokens.weight
