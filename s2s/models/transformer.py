"""The Transformer encoder-decoder (Vaswani et al. 2017), pre-norm by default: its options, and its parts together.

Shapes: D model width, V vocabulary.
"""

import dataclasses

from torch import nn

from s2s.config.schema import option
from s2s.data.spec import Spec, TokenSource, check_sources
from s2s.errors import UserError
from s2s.models.bridges.top import TopBridge
from s2s.models.contract import Shared
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.encoders.transformer import EncoderConfig, TransformerEncoder
from s2s.models.frontends.tokens import TokenFrontend
from s2s.models.stack import StackConfig
from s2s.nn.embedding import Embedding
from s2s.nn.feedforward import ACTIVATIONS


@dataclasses.dataclass
class TransformerConfig:
    """Options of the Transformer."""

    type: str = option("transformer", "component")
    encoder: EncoderConfig = option(EncoderConfig, "encoder")
    decoder: StackConfig = option(StackConfig, "decoder")
    norm: str = option("pre", "normalise before each block (stable) or after it (the original)", ("pre", "post"))
    positions: str = option("sinusoidal", "position information", ("sinusoidal", "learned", "rotary"))
    max_positions: int = option(
        1024, "longest sequence in tokens, for learned positions only", at_least=1, at_most=1_048_576
    )
    activation: str = option("relu", "of the feed-forward blocks", ACTIVATIONS)
    dropout: float = option(0.1, "of every block's output", at_least=0, below=1)
    embedding_dropout: float | None = option(None, "of the embedded input; null: as dropout", at_least=0, below=1)
    attention_dropout: float = option(0.0, "of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "inside the feed-forward blocks", at_least=0, below=1)
    tie_embeddings: str = option(
        "auto",
        "one matrix for: decoder input and output; the two inputs; all three; auto: all if the vocabulary is shared, "
        "else decoder",
        ("auto", "none", "decoder", "inputs", "all"),
    )
    auxiliary_heads: list[int] = option(
        [],
        "decoder layers, from 1, whose states predict the target too (DeCRED); criterion=auxiliary",
        at_least=1,
        at_most=1000,
    )


class Transformer(EncoderDecoder):
    """The Transformer.

    Args:
        config: Its options.
        spec: One source of tokens.

    Raises:
        UserError: widths, heads or ties that do not fit together, or sources of another kind.
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, spec: Spec):
        super().__init__()
        check_sources(spec, (TokenSource,), config.type)
        self.config, self.target_vocabulary_size = config, spec.target_size
        self.max_length = config.max_positions if config.positions == "learned" else None
        shared, width = shared_options(config), config.decoder.width
        tie = _tie(config, spec.shared)
        source = nn.Embedding(spec.sources[0].size, config.encoder.width)
        target = source if tie in ("inputs", "all") else nn.Embedding(spec.target_size, width)
        frontend = TokenFrontend(source, shared)
        embedding = Embedding(target, config.positions, config.max_positions, shared.embedding_dropout)
        encoder = TransformerEncoder(config.encoder, shared)
        decoder = TransformerDecoder(config.decoder, shared, embedding, encoder.width, config.auxiliary_heads)
        output = nn.Linear(width, spec.target_size, bias=False)
        self.assemble(frontend, encoder, TopBridge(), decoder, output)
        self.draw(frontend, embedding, encoder, decoder.layers, output)
        if tie in ("decoder", "all"):
            output.weight = target.weight


def shared_options(config) -> Shared:
    """What the parts of a model share, of its options; those that it does not have are Shared's own."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(Shared)
               if hasattr(config, field.name)}  # fmt: skip
    if options["embedding_dropout"] is None:
        options["embedding_dropout"] = config.dropout
    return Shared(**options)


def _tie(config: TransformerConfig, shared_vocabulary: bool) -> str:
    """The kind of tying, `auto` resolved. Raises UserError where matrices cannot be one."""
    same_width = config.encoder.width == config.decoder.width
    tie = config.tie_embeddings
    if tie == "auto":
        return "all" if shared_vocabulary and same_width else "decoder"
    if tie in ("inputs", "all") and not (shared_vocabulary and same_width):
        reason = "a vocabulary of its own on each side" if same_width else "encoder and decoder of different width"
        raise UserError(f"model.tie_embeddings={tie} is not possible with {reason}; use decoder or none")
    return tie
