"""Speech to text: an encoder of features (Transformer, Conformer, E-Branchformer) with a CTC output, a Transformer
decoder, or both.

Shapes: V vocabulary.
"""

import dataclasses
from typing import Any, ClassVar

from torch import nn

from s2s.config.schema import group, option
from s2s.data.spec import Spec, check_sources
from s2s.errors import UserError
from s2s.models.bridges.top import TopBridge, TopConfig
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.encoders.speech import SpeechEncoder, SpeechEncoderConfig
from s2s.models.stack import DecoderConfig
from s2s.models.transformer import shared_options
from s2s.nn.embedding import Embedding
from s2s.nn.feedforward import ACTIVATIONS
from s2s.registry import find

# Positions that a CPU encodes at once in decoding; more are not faster (tests/benchmarks/joint.py).
TOGETHER = 512

MOVED = {  # options of s2s 0.1 and their names now (s2s/checkpoint/former.py)
    "encoder": "encoder.layer",  # its `type`
    "encoder.kernel": "encoder.layer.kernel",
    "encoder.subsampling": "frontend.factor",
    "encoder.subsampling_channels": "frontend.channels",
}


@dataclasses.dataclass
class SpeechDecoderConfig(DecoderConfig):
    """Size of the decoder."""

    layers: int = option(6, "number of layers; 0: no decoder, only CTC", at_least=0, at_most=1000)
    width: int = option(256, "model width D", at_least=1, at_most=65_536)
    heads: int = option(4, "number of attention heads, which divides the width", at_least=1, at_most=1024)
    ffn_width: int = option(1024, "inner width of the feed-forward blocks", at_least=1, at_most=1_048_576)


@dataclasses.dataclass
class SpeechConfig:
    """Options of a speech model. The decoder and the output are those of the Transformer, pre-norm."""

    MOVED: ClassVar[dict[str, str]] = MOVED
    type: str = option("speech", "component")
    frontend: Any = group("frontend", "subsampling", "turns frames into vectors (one state for each position)")
    encoder: SpeechEncoderConfig = option(SpeechEncoderConfig, "encoder")
    decoder: SpeechDecoderConfig = option(SpeechDecoderConfig, "decoder")
    adapter: Any = group("adapter", None, "small weights that alone are trained, in a trained model; null: none")
    ctc: bool = option(True, "add a CTC output to the encoder, with or without a decoder")
    positions: str = option("sinusoidal", "position information of the decoder", ("sinusoidal", "rotary"))
    activation: str = option("relu", "activation function of the decoder's feed-forward blocks", ACTIVATIONS)
    dropout: float = option(0.1, "dropout of the output of every block", at_least=0, below=1)
    embedding_dropout: float | None = option(
        None, "dropout of the embedded input; null: the same as dropout", at_least=0, below=1
    )
    attention_dropout: float = option(0.0, "dropout of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "dropout inside the feed-forward blocks", at_least=0, below=1)
    log_length_scale: bool = option(
        False, "multiply attention logits by the logarithm of the number of keys, for sequences longer than in training"
    )
    tie_embeddings: bool = option(True, "share one matrix between the input and output of the decoder")
    auxiliary_heads: list[int] = option(
        [],
        "numbers (from 1) of decoder layers that also predict the target (DeCRED); see criterion=auxiliary",
        at_least=1,
        at_most=1000,
    )


class SpeechModel(EncoderDecoder):
    """The speech model.

    Args:
        config: The options of the model.
        spec: The task, with one source of features.

    Raises:
        UserError: sizes that do not fit together, a model without any output, or sources of another kind.
    """

    Config = SpeechConfig
    together = TOGETHER

    def __init__(self, config: SpeechConfig, spec: Spec):
        super().__init__()
        frontend = find("frontend", config.frontend.type)
        check_sources(spec, (frontend.reads,), f"model.frontend={config.frontend.type}")
        self.config, self.target_vocabulary_size, size = config, spec.target_size, spec.target_size
        if not config.decoder.layers and not config.ctc:
            raise UserError("model.ctc=false and model.decoder.layers=0: the model has no output; choose one of them")
        shared, options = shared_options(config, spec), config.encoder
        frontend = frontend(config.frontend, spec.sources[0], options.width,
                            dataclasses.replace(shared, positions=options.positions))  # fmt: skip
        encoder = SpeechEncoder(options, shared, size if config.ctc else None)
        decoder = output = embedding = None
        if config.decoder.layers:
            tokens = nn.Embedding(size, config.decoder.width)
            embedding = Embedding(tokens, config.positions, 0, shared.embedding_dropout)
            decoder = TransformerDecoder(config.decoder, shared, embedding, encoder.width, config.auxiliary_heads)
            output = nn.Linear(config.decoder.width, size, bias=False)
        elif config.auxiliary_heads:
            raise UserError(f"model.auxiliary_heads={config.auxiliary_heads}: there is no decoder to have them")
        bridge = TopBridge(TopConfig(), encoder.width, options.layers, config.decoder.layers)
        self.assemble(frontend, encoder, bridge, decoder, output)
        self.draw(frontend, encoder, embedding, decoder and decoder.layers, output)
        encoder.begin()
        if output is not None and config.tie_embeddings:
            output.weight = tokens.weight
