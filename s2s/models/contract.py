"""The data that the parts of a model exchange.

A model has five parts (s2s/models/encoder_decoder.py): front-end, encoder, bridge, decoder, output.

Shapes: B rows, S source positions, T target positions, K rows a sentence, R = B*K, D width, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Protocol, cast

from torch import Tensor, nn

from s2s.data.batch import Packing, tag_of_positions
from s2s.errors import UserError
from s2s.nn.attention import segment_mask
from s2s.nn.relative_bias import RelativeBias


class TagSizes(dict[str, int]):
    """Number of values of each tag of the examples, by the tag's name. A missing tag raises UserError."""

    def __missing__(self, name: str) -> int:
        has = f"they have {', '.join(self)}" if self else "they have none"
        raise UserError(f"the model reads the tag {name} of the examples; {has}")


OPTIONAL = {
    "log_length_scale": "log_length",
    "norm_type": "norm_type",
    "bias": "bias",
    "scale_attention": "scale_attention",
}  # options, and the arguments of those layers that have them


@dataclasses.dataclass(frozen=True)
class Shared:
    """Options that all parts of a model share, as plain values.

    Attributes:
        norm: `pre` or `post`: normalise before each block or after it.
        positions: `sinusoidal`, `sinusoidal_fairseq`, `sinusoidal_interleaved`, `learned`, `rotary`, `relative_bias`
            or `none`.
        max_positions: Longest sequence, for learned positions only.
        activation: Activation function of the feed-forward blocks.
        dropout: Dropout probability of the output of every block.
        embedding_dropout: Dropout probability of the embedded input.
        attention_dropout: Dropout probability of attention weights.
        activation_dropout: Dropout probability inside the feed-forward blocks.
        tags: Number of values of each tag of the examples, by the tag's name.
        log_length_scale: Whether attention logits are multiplied by the logarithm of the number of keys.
        target_starts: Ids of the target's symbols that begin a word, as in Spec.
        norm_type: `layer` or `rms`.
        bias: Whether the linear maps of layers have biases.
        scale_attention: Whether attention logits are divided by sqrt(d).
        scale_embeddings: Whether embeddings are multiplied by sqrt(D).
        embedding_norm: Whether the sum of embeddings and positions is normalised.
        scale_output: Whether the states of the decoder are divided by sqrt(D) before the output.
        relative_buckets: Rows of the table of the relative position bias.
        relative_distance: Distance from which all have one relative position bias.
        sources: Number of sources of an example.
    """

    norm: str = "pre"
    positions: str = "sinusoidal"
    max_positions: int = 0
    activation: str = "relu"
    dropout: float = 0.0
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    tags: "TagSizes" = dataclasses.field(default_factory=lambda: TagSizes())
    log_length_scale: bool = False
    target_starts: tuple[int, ...] = ()
    norm_type: str = "layer"
    bias: bool = True
    scale_attention: bool = True
    scale_embeddings: bool = True
    embedding_norm: bool = False
    scale_output: bool = False
    relative_buckets: int = 32
    relative_distance: int = 128
    sources: int = 1

    def changed(self, *names: str) -> dict[str, object]:
        """The values of these options that are not the defaults of this class."""
        return {name: getattr(self, name) for name in names if getattr(self, name) != getattr(Shared, name)}

    def refuse(self, part: str, *names: str) -> None:
        """Raise UserError if one of these options has another value than its default, or, for `relative_bias`, if it is
        the value of `positions`.

        Args:
            part: The option of the part that does not have them, for errors.
            names: Attributes, or `relative_bias`.
        """
        if "relative_bias" in names and self.positions == "relative_bias":
            raise UserError(f"model.positions=relative_bias: {part} does not have it")
        for name, value in self.changed(*(name for name in names if name != "relative_bias")).items():
            raise UserError(f"model.{name}={str(value).lower()}: {part} does not have it")

    def relative_bias(self, heads: int, causal: bool) -> RelativeBias | None:
        """The relative position bias of a stack of layers; None: `positions` is something else."""
        if self.positions != "relative_bias":
            return None
        self.refuse("model.positions=relative_bias", "log_length_scale")
        if self.relative_distance <= self.relative_buckets:
            raise UserError(f"model.relative_distance={self.relative_distance}: must be over "
                            f"model.relative_buckets={self.relative_buckets}")  # fmt: skip
        return RelativeBias(heads, self.relative_buckets, self.relative_distance, causal)

    def layer(self, stack) -> dict:
        """Arguments of a `Layer`, the optional ones of OPTIONAL only if they are changed; stack: a config with `width,
        heads, kv_heads, ffn_width, head_width`."""
        return {
            "width": stack.width,
            "heads": stack.heads,
            "kv_heads": stack.kv_heads or stack.heads,
            "ffn_width": stack.ffn_width,
            "activation": self.activation,
            "pre_norm": self.norm == "pre",
            "rotary": self.positions == "rotary",
            "dropout": self.dropout,
            "attention_dropout": self.attention_dropout,
            "activation_dropout": self.activation_dropout,
            **{OPTIONAL[name]: value for name, value in self.changed(*OPTIONAL).items()},
            **({} if stack.head_width is None else {"head_width": stack.head_width}),
        }


@dataclasses.dataclass
class States:
    """Output of a front-end.

    Attributes:
        values: [B, S, D], right-padded.
        lengths: [B] int64, real positions of each row; a front-end may change them.
        packing: Which example each position belongs to, where rows hold several examples.
        tags: Value numbers of each tag, as in `Batch.tags`; the model sets them.
    """

    values: Tensor
    lengths: Tensor
    packing: Packing | None = None
    tags: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def tags_of_positions(self) -> dict[str, Tensor]:
        """Value numbers of each tag, by its name: int64 [B, 1], or [B, S] where rows are packed."""
        return {name: tag_of_positions(tag, self.packing) for name, tag in self.tags.items()}


@dataclasses.dataclass
class Memory:
    """Output of the encoder, which the decoder reads.

    Attributes:
        states: States of the layers that the bridge or a loss needs, each [B, S, D]; the top layer is the last.
        lengths: [B] int64, real positions of each row; a front-end may have changed them.
        mask: Bool [B, 1, 1, S], true at real positions. In training it may be float and is then added to the attention
            logits.
        segments: [B, S] int64, which example of its row each position belongs to, where rows are packed; else None.
        auxiliary: Further outputs by name (CTC logits, gate rates).
        tags: As in States.
        last: Last states of the layers of a recurrent encoder, if the decoder begins with them, [B, layers, D], or
            [B, 2 * layers, D] for hidden state and cell of each layer; a row for each example where rows are packed.
    """

    states: list[Tensor]
    lengths: Tensor
    mask: Tensor
    segments: Tensor | None = None
    auxiliary: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    last: Tensor | None = None

    @property
    def top(self) -> Tensor:
        return self.states[-1]

    def visible(self, packing: Packing | None = None) -> Tensor:
        """Mask of the positions that a decoder may see: [B, 1, 1, S]. Where rows are packed it is [B, 1, T, S], and
        each target example sees its own source only.

        Raises:
            ValueError: packed rows on one side only.
        """
        if packing is None and self.segments is None:
            return self.mask
        if packing is None or self.segments is None:
            raise ValueError("source and target rows must both be packed, or neither")
        return self.mask & segment_mask(packing.segments, self.segments)


@dataclasses.dataclass
class DecoderOutput:
    """Output under teacher forcing: the last states and the output layer, so that a loss need never hold [B, T, V].

    Attributes:
        states: [B, T, D].
        output: Output layer. It is called with states and `context` of all or some positions, [n, ...], and returns
            logits or log-probabilities; -inf marks an impossible symbol. V may be any number.
        heads: States of other layers, by layer number, that the same output layer reads, each [B, T, D].
        context: Further inputs of `output` for each position, [B, T, ...], such as attention to the copied source.
    """

    states: Tensor
    output: nn.Module
    heads: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    context: tuple[Tensor, ...] = ()

    @property
    def _linear(self) -> nn.Linear | None:
        """The output layer if it is a plain linear map; else None."""
        output = self.output
        plain = nn.Linear in (type(output), type(output).__dict__.get("stands_for"))
        hooked = output._forward_hooks or output._forward_pre_hooks
        return cast(nn.Linear, output) if plain and not hooked and not self.context else None

    @property
    def weight(self) -> Tensor | None:
        """[V, D] if the output layer is a linear map that is not prepacked for decoding; else None."""
        return None if self._linear is None else self._linear.weight

    @property
    def bias(self) -> Tensor | None:
        """[V] if the output layer is a linear map with a bias; else None."""
        return None if self._linear is None else self._linear.bias

    def head(self, number: int) -> "DecoderOutput":
        """The output for the states of one layer of `heads`."""
        return DecoderOutput(self.heads[number], self.output, {}, self.context)

    def logits(self) -> Tensor:
        """[B, T, V]"""
        return self.output(self.states, *self.context)


class DecoderState(Protocol):
    """State of B sentences x K rows, opaque to the search; row b*K + k is row k of sentence b.

    Each sentence has its own position, so that a new sentence can replace one that is finished.
    """

    def empty(self, slots: int) -> "DecoderState":
        """A state of the same kind with `slots` places for sentences, all free."""

    def reorder(self, parents: Tensor) -> None:
        """Row r continues row parents[r] of the same sentence; parents: [R] int64."""

    def admit(self, slots: Tensor, other: "DecoderState", which: Tensor) -> None:
        """Put sentences `which` of a state that `start` has just returned into the places `slots`; both [n] int64."""

    def free(self, slots: Tensor) -> None:
        """Mark places as free. A free place needs no more memory, however long it stays free."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep sentences `keep` with all their rows as the first of `slots` places, and free the other places. Tensors
        shrink to the length that these sentences need. keep: [B'] int64, ascending."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
