"""Language model: a Transformer decoder without a memory. It is trained on targets and scores hypotheses.

The rest of the toolkit treats it as an encoder-decoder that reads only the number of source sentences. So it uses the
same criterions, trainer, states and kernels.

Shapes: V vocabulary.
"""

import dataclasses
from typing import Any

from s2s.config.schema import group, option
from s2s.data.spec import Spec, check_sources
from s2s.errors import UserError
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.transformer import shared_options
from s2s.nn.embedding import Embedding
from s2s.nn.feedforward import ACTIVATIONS
from s2s.registry import find


@dataclasses.dataclass
class LanguageModelConfig:
    """Options of a language model, pre-norm."""

    type: str = option("transformer_lm", "component")
    decoder: Any = group(
        "decoder", "transformer", "predicts the next token from the text so far; one that needs no memory"
    )
    embedding: Any = group("embedding", "table", "embeds the tokens that the decoder reads")
    output: Any = group("output", "linear", "turns the states of the decoder into logits")
    adapter: Any = group("adapter", None, "small weights that alone are trained, in a trained model; null: none")
    positions: str = option(
        "sinusoidal", "position information; sinusoidal_fairseq: that of fairseq's models",
        ("sinusoidal", "sinusoidal_fairseq", "learned", "rotary"),
    )  # fmt: skip
    max_positions: int = option(
        1024, "longest sequence in tokens, only for learned positions", at_least=1, at_most=1_048_576
    )
    activation: str = option("relu", "activation function of the feed-forward blocks", ACTIVATIONS)
    dropout: float = option(0.1, "dropout of the output of every block", at_least=0, below=1)
    embedding_dropout: float | None = option(
        None, "dropout of the embedded input; null: the same as dropout", at_least=0, below=1
    )
    attention_dropout: float = option(0.0, "dropout of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "dropout inside the feed-forward blocks", at_least=0, below=1)
    log_length_scale: bool = option(
        False, "multiply attention logits by the logarithm of the number of keys, for sequences longer than in training"
    )
    scale_embeddings: bool = option(True, "multiply embedded tokens by the square root of the width")
    embedding_norm: bool = option(False, "normalise the sum of embedded tokens and positions")
    tie_embeddings: bool = option(True, "share one matrix between input and output")


class LanguageModel(EncoderDecoder):
    """The language model.

    Args:
        config: The options of the model.
        spec: The task, without sources.

    Raises:
        UserError: widths and heads that do not fit together, a task with a source, a decoder that needs a memory.
    """

    Config = LanguageModelConfig

    def __init__(self, config: LanguageModelConfig, spec: Spec):
        super().__init__()
        check_sources(spec, (), f"model={config.type}")
        self.config, self.target_vocabulary_size = config, spec.target_size
        self.max_length = config.max_positions if config.positions == "learned" else None
        kinds = {part: find(part, getattr(config, part).type) for part in ("decoder", "embedding", "output")}
        if not getattr(kinds["decoder"], "goes_alone", False):
            raise UserError(f"model.decoder={config.decoder.type}: needs a memory, and a language model has none; "
                            "try model.decoder=transformer")  # fmt: skip
        if config.tie_embeddings and not getattr(kinds["embedding"], "ties", False):
            raise UserError(f"model.tie_embeddings=true: model.embedding={config.embedding.type} has no matrix that "
                            "the output could have; model.tie_embeddings=false")  # fmt: skip
        shared, width = shared_options(config, spec), config.decoder.width
        tokens = kinds["embedding"](config.embedding, spec.target_size, width)
        drop = getattr(config.embedding, "dropout", None)
        embedding = Embedding(tokens, config.positions, config.max_positions,
                              shared.embedding_dropout if drop is None else drop, config.scale_embeddings,
                              config.embedding_norm)  # fmt: skip
        decoder = kinds["decoder"](config.decoder, shared, embedding, None)
        output = kinds["output"](config.output, width, spec.target_size)
        if hasattr(output, "see"):
            output.see(spec)
        self.assemble(None, None, None, decoder, output)
        self.draw(embedding, *(part for part in decoder.children() if part is not embedding), output)
        if config.tie_embeddings:
            self.tie(tokens)
