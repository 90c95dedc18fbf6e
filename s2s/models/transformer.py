"""The Transformer encoder-decoder (Vaswani et al. 2017), pre-norm by default: its options, and how it is assembled.

Shapes: D model width, V vocabulary.
"""

import dataclasses
from typing import Any

import torch
from torch import nn

from s2s.config.schema import group, option
from s2s.data.spec import Spec, check_sources
from s2s.errors import UserError
from s2s.models.contract import Shared, TagSizes
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.nn.embedding import Embedding
from s2s.nn.feedforward import ACTIVATIONS
from s2s.nn.norms import NORMS, set_epsilon
from s2s.registry import find


@dataclasses.dataclass
class TransformerConfig:
    """Options of the Transformer."""

    type: str = option("transformer", "component")
    frontend: Any = group("frontend", "tokens", "turns a source into vectors (one state for each position)")
    encoder: Any = group("encoder", "transformer", "turns the states into the memory that the decoder attends to")
    bridge: Any = group("bridge", "top", "which outputs of the encoder each decoder layer attends to")
    decoder: Any = group("decoder", "transformer", "predicts the next token from the memory and the target so far")
    embedding: Any = group("embedding", "table", "embeds the tokens that the decoder reads")
    output: Any = group("output", "linear", "turns the states of the decoder into logits")
    adapter: Any = group("adapter", None, "small weights that alone are trained, in a trained model; null: none")
    norm: str = option("pre", "normalise before each block (stable) or after it (the original)", ("pre", "post"))
    norm_type: str = option("layer", "layer: LayerNorm; rms: RMSNorm, without mean and bias", NORMS)
    norm_epsilon: float | None = option(
        None, "added to the variance in norms; null: 1e-5, or 1e-6 with norm_type=rms", at_least=1e-12, at_most=1
    )
    positions: str = option(
        "sinusoidal", "position information; sinusoidal_fairseq: that of fairseq's models, with slightly other "
        "angles; sinusoidal_interleaved: that of OpenNMT and JoeyNMT, in another order; none: for layers that see the "
        "order by themselves",
        ("sinusoidal", "sinusoidal_fairseq", "sinusoidal_interleaved", "learned", "rotary", "relative_bias", "none"),
    )  # fmt: skip
    max_positions: int = option(
        1024, "longest sequence in tokens, only for learned positions", at_least=1, at_most=1_048_576
    )
    relative_buckets: int = option(
        32, "numbers for each head that relative_bias learns, for distances and ranges of distances", at_least=4,
        at_most=65_536,
    )  # fmt: skip
    relative_distance: int = option(
        128, "distance from which all have one number of relative_bias", at_least=2, at_most=1_048_576
    )
    activation: str = option("relu", "activation function of the feed-forward blocks", ACTIVATIONS)
    bias: bool = option(True, "the linear maps of layers have biases")
    dropout: float = option(0.1, "dropout of the output of every block", at_least=0, below=1)
    embedding_dropout: float | None = option(
        None, "dropout of the embedded input; null: the same as dropout", at_least=0, below=1
    )
    attention_dropout: float = option(0.0, "dropout of attention weights", at_least=0, below=1)
    activation_dropout: float = option(0.0, "dropout inside the feed-forward blocks", at_least=0, below=1)
    log_length_scale: bool = option(
        False, "multiply attention logits by the logarithm of the number of keys, for sequences longer than in training"
    )
    scale_attention: bool = option(True, "divide attention logits by the square root of the head width")
    scale_embeddings: bool = option(True, "multiply embedded tokens by the square root of the width")
    embedding_norm: bool = option(False, "normalise the sum of embedded tokens and positions, as BART does")
    scale_output: bool = option(
        False,
        "divide the states of the decoder by the square root of the width before the output; for a shared matrix with "
        "scale_embeddings=false",
    )
    tie_embeddings: str = option(
        "auto",
        "share one matrix; decoder: its input and output; inputs: encoder and decoder input; all: all three; auto: all "
        "if the vocabulary is shared, otherwise decoder",
        ("auto", "none", "decoder", "inputs", "all"),
    )
    auxiliary_heads: list[int] = option(
        [],
        "numbers (from 1) of decoder layers that also predict the target (DeCRED); see criterion=auxiliary",
        at_least=1,
        at_most=1000,
    )
    share_sources: str = option(
        "none",
        "modules that several sources share; all: the encoder and the front-end, with one vocabulary",
        ("none", "encoder", "all"),
    )


class Transformer(EncoderDecoder):
    """The Transformer.

    Args:
        config: The options of the model.
        spec: The task. Its sources are of the kind that the front-end reads; the bridge joins several sources.

    Raises:
        UserError: widths, heads or ties that do not fit together, or sources of another kind.
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, spec: Spec):
        super().__init__()
        kinds = {part: find(part, getattr(config, part).type)
                 for part in ("frontend", "encoder", "bridge", "decoder", "embedding", "output")}  # fmt: skip
        count = max(len(spec.sources), 1)
        check_sources(spec, (kinds["frontend"].reads,) * count, f"model.frontend={config.frontend.type}")
        _check_several(config, spec, getattr(kinds["bridge"], "several_sources", False))
        _check_deleting(config, kinds)
        self.config, self.target_vocabulary_size = config, spec.target_size
        self.max_length = config.max_positions if config.positions == "learned" else None
        shared = shared_options(config, spec)
        width, target_width = input_width(config.encoder), input_width(config.decoder)
        frontend = kinds["frontend"](config.frontend, spec.sources[0], width, shared)
        if config.embedding_norm and getattr(getattr(frontend, "embedding", None), "norm", None) is None:
            raise UserError(f"model.embedding_norm=true: model.frontend={config.frontend.type} does not have it")
        matrix = frontend.tokens is not None and frontend.tokens.embedding_dim == width
        tie = _tie(config, spec.shared, matrix, getattr(kinds["embedding"], "ties", False))
        # The decoder reads source tokens where the output layer has no fixed vocabulary.
        size = spec.sources[0].size if hasattr(kinds["output"], "shown") else spec.target_size
        target = (frontend.tokens if tie in ("inputs", "all")
                  else kinds["embedding"](config.embedding, size, target_width))  # fmt: skip
        drop = getattr(config.embedding, "dropout", None)
        drop = shared.embedding_dropout if drop is None else drop
        embedding = Embedding(target, config.positions, config.max_positions, drop, config.scale_embeddings,
                              config.embedding_norm)  # fmt: skip
        encoder = kinds["encoder"](config.encoder, shared)
        bridge = kinds["bridge"](config.bridge, encoder.width, config.encoder.layers,
                                 kinds["decoder"].attending(config.decoder))  # fmt: skip
        decoder = kinds["decoder"](config.decoder, shared, embedding, bridge.width, config.auxiliary_heads)
        if (wanted := getattr(decoder, "copies", None)) is not None and wanted != getattr(bridge, "copies", 1):
            raise UserError(f"model.decoder={config.decoder.type}: sees up to {wanted} encoder layers; "
                            f"model.bridge=last model.bridge.layers={wanted}")  # fmt: skip
        if getattr(decoder, "numbers_sources", False) != getattr(bridge, "numbers_sources", False):
            raise UserError("model.bridge=sources and model.decoder=multi_source: require each other")
        output = kinds["output"](config.output, output_width(config.decoder), spec.target_size)
        if hasattr(output, "see"):
            output.see(spec)
        frontends = [kinds["frontend"](config.frontend, source, width, shared)
                     for source in spec.sources[1:] if config.share_sources != "all"]  # fmt: skip
        encoders = [kinds["encoder"](config.encoder, shared)
                    for _ in spec.sources[1:] if config.share_sources == "none"]  # fmt: skip
        for stack in (encoder, *encoders):
            stack.needed = bridge.needs
        if getattr(decoder, "reads_last", False):
            _give_last(config, encoder, len(spec.sources))
        self.assemble(frontend, encoder, bridge, decoder, output, frontends, encoders)
        if config.norm_epsilon is not None:
            set_epsilon(self, config.norm_epsilon)
        others = (part for part in decoder.children() if part is not embedding)
        self.draw(frontend, embedding, encoder, bridge, *others, output, *frontends, *encoders)
        if not config.scale_embeddings and (config.scale_output or tie not in ("decoder", "all")):
            _enlarge(target, *(part.tokens for part in (frontend, *frontends)))
        if tie in ("decoder", "all"):
            self.tie(target)


def _enlarge(*tables: nn.Module | None) -> None:
    """Multiply matrices of embeddings by sqrt(D) initially, where nothing else does."""
    with torch.no_grad():
        for table in dict.fromkeys(table for table in tables if isinstance(table, nn.Embedding)):
            table.weight.mul_(table.embedding_dim**0.5)


def input_width(config: Any) -> int:
    """Width of what a stack of layers reads; config: of an encoder or decoder."""
    return getattr(config, "input_width", None) or config.width


def output_width(config: Any) -> int:
    """Width of what the output layer reads; config: of a decoder."""
    return getattr(config, "output_width", None) or config.width


def _give_last(config: TransformerConfig, encoder: Any, sources: int) -> None:
    """Let the encoder give its last states to the decoder.

    Args:
        config: The options of the model.
        encoder: The encoder.
        sources: Number of sources.

    Raises:
        UserError: the encoder has none that the decoder could begin with.
    """
    key, kind = "model.decoder.start=encoder", config.decoder.type
    if not hasattr(encoder, "gives_last") or config.encoder.type != kind:
        raise UserError(f"{key}: begins with states of the same kind, which model.encoder={config.encoder.type} does "
                        f"not have; model.encoder={kind}")  # fmt: skip
    if config.encoder.layers != config.decoder.layers:
        raise UserError(f"{key}: each layer begins with the state of one; model.encoder.layers={config.encoder.layers}"
                        f" and model.decoder.layers={config.decoder.layers} must be equal")  # fmt: skip
    if sources > 1:
        raise UserError(f"{key}: the task has {sources} sources, and the decoder begins with the states of one")
    encoder.gives_last = True


def _check_deleting(config: TransformerConfig, kinds: dict[str, Any]) -> None:
    """Raise UserError where the encoder deletes positions and the bridge, the decoder or the output needs them all."""
    if not getattr(kinds["encoder"], "deletes", False):
        return
    knows = {"bridge": not getattr(kinds["bridge"], "several_sources", False),
             "decoder": getattr(kinds["decoder"], "sees_shares", False),
             "output": not hasattr(kinds["output"], "keep")}  # fmt: skip
    for part, goes in knows.items():
        if not goes:
            raise UserError(f"model.encoder={config.encoder.type} deletes positions of the source, which "
                            f"model.{part}={getattr(config, part).type} needs")  # fmt: skip


def _check_several(config: TransformerConfig, spec: Spec, joins: bool) -> None:
    """Raise UserError where the bridge or `share_sources` does not fit the number of sources.

    Args:
        config: The options of the model.
        spec: The task.
        joins: Whether the bridge joins several sources.
    """
    bridge, several = f"model.bridge={config.bridge.type}", len(spec.sources) > 1
    if several and not joins:
        raise UserError(f"{bridge} sees one source, and the task has {len(spec.sources)}; try model.bridge=flat")
    if joins and not several:
        raise UserError(f"{bridge} joins several sources, and the task has one; try model.bridge=top")
    share = f"model.share_sources={config.share_sources}"
    if config.share_sources != "none" and not several:
        raise UserError(f"{share}: requires several sources, and the task has one")
    if config.share_sources == "all" and not spec.alike:
        raise UserError(f"{share}: the sources have vocabularies of their own; use encoder or none")


def shared_options(config, spec: Spec) -> Shared:
    """The options of a model and of its task that all parts share. An option that the model lacks has the default of
    Shared."""
    options = {field.name: getattr(config, field.name) for field in dataclasses.fields(Shared)
               if hasattr(config, field.name)}  # fmt: skip
    if options["embedding_dropout"] is None:
        options["embedding_dropout"] = config.dropout
    tags = TagSizes({name: len(values) for name, values in spec.tags.items()})
    return Shared(**options, tags=tags, target_starts=spec.target_starts, sources=len(spec.sources))


def _tie(config: TransformerConfig, shared_vocabulary: bool, matrix: bool, target_matrix: bool) -> str:
    """The kind of tying, with `auto` resolved.

    Args:
        config: The options of the model.
        shared_vocabulary: Whether source and target have one vocabulary.
        matrix: Whether the front-end has an embedding matrix as wide as the encoder.
        target_matrix: Whether the embedding of the decoder is a matrix.

    Raises:
        UserError: matrices that cannot be shared.
    """
    tie = config.tie_embeddings
    reason = None
    if not target_matrix:
        if tie not in ("auto", "none"):
            raise UserError(f"model.tie_embeddings={tie} is not possible with model.embedding={config.embedding.type}, "
                            "which has no matrix; use none")  # fmt: skip
        return "none"
    if not matrix:
        reason = f"model.frontend={config.frontend.type}, whose tokens have no matrix of this width"
    elif input_width(config.encoder) != input_width(config.decoder):
        reason = "encoder and decoder of different width"
    elif not shared_vocabulary:
        reason = "a vocabulary of its own on each side"
    if input_width(config.decoder) != output_width(config.decoder):
        if tie not in ("auto", "none", "inputs"):
            raise UserError(f"model.tie_embeddings={tie} is not possible: the decoder reads a width of "
                            f"{input_width(config.decoder)} and the output {output_width(config.decoder)}")  # fmt: skip
        tie = "none" if tie == "auto" else tie
    if tie == "auto":
        return "decoder" if reason else "all"
    if tie in ("inputs", "all") and reason:
        raise UserError(f"model.tie_embeddings={tie} is not possible with {reason}; use decoder or none")
    return tie
