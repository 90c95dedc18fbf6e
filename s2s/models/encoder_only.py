"""An encoder alone, such as BERT or XLM-R: what s2s-import makes of one, for `train.init`. It writes nothing."""

import dataclasses
from typing import Any

from s2s.config.schema import group, option
from s2s.data.spec import Spec, check_sources
from s2s.models.bridges.top import TopBridge, TopConfig
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.transformer import input_width, shared_options
from s2s.nn.feedforward import ACTIVATIONS
from s2s.nn.norms import NORMS, set_epsilon
from s2s.registry import find


@dataclasses.dataclass
class EncoderOnlyConfig:
    """Options of an encoder alone, with the meaning that they have in the Transformer."""

    type: str = option("transformer_encoder", "component")
    frontend: Any = group("frontend", "tokens", "turns a source into vectors (one state for each position)")
    encoder: Any = group("encoder", "transformer", "turns the states into the memory")
    norm: str = option("post", "normalise before each block or after it", ("pre", "post"))
    norm_type: str = option("layer", "layer: LayerNorm; rms: RMSNorm, without mean and bias", NORMS)
    norm_epsilon: float | None = option(
        None, "added to the variance in norms; null: 1e-5, or 1e-6 with norm_type=rms", at_least=1e-12, at_most=1
    )
    positions: str = option("learned", "position information", ("sinusoidal", "learned", "rotary"))
    max_positions: int = option(
        512, "longest sequence in tokens, only for learned positions", at_least=1, at_most=1_048_576
    )
    activation: str = option("gelu", "activation function of the feed-forward blocks", ACTIVATIONS)
    dropout: float = option(0.1, "dropout of the output of every block", at_least=0, below=1)
    embedding_dropout: float | None = option(
        None, "dropout of the embedded input; null: the same as dropout", at_least=0, below=1
    )
    attention_dropout: float = option(0.0, "dropout of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "dropout inside the feed-forward blocks", at_least=0, below=1)
    scale_embeddings: bool = option(False, "multiply embedded tokens by the square root of the width")
    embedding_norm: bool = option(True, "normalise the sum of embedded tokens and positions")


class EncoderOnly(EncoderDecoder):
    """The encoder.

    Args:
        config: The options of the model.
        spec: The task, with one source.

    Raises:
        UserError: sizes that do not fit together, or sources of another kind.
    """

    Config = EncoderOnlyConfig

    def __init__(self, config: EncoderOnlyConfig, spec: Spec):
        super().__init__()
        frontend = find("frontend", config.frontend.type)
        check_sources(spec, (frontend.reads,), f"model.frontend={config.frontend.type}")
        self.config, self.target_vocabulary_size = config, spec.target_size
        self.max_length = config.max_positions if config.positions == "learned" else None
        shared, width = shared_options(config, spec), input_width(config.encoder)
        first = frontend(config.frontend, spec.sources[0], width, shared)
        encoder = find("encoder", config.encoder.type)(config.encoder, shared)
        bridge = TopBridge(TopConfig(), encoder.width, config.encoder.layers, 0)
        self.assemble(first, encoder, bridge, None, None)
        self.draw(first, encoder)
        if config.norm_epsilon is not None:
            set_epsilon(self, config.norm_epsilon)
