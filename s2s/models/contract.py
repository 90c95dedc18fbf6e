"""What the parts of a model hand to each other.

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


class TagSizes(dict[str, int]):
    """How many values each tag of the examples has, by its name. Raises UserError for one that they do not have."""

    def __missing__(self, name: str) -> int:
        has = f"they have {', '.join(self)}" if self else "they have none"
        raise UserError(f"the model reads the tag {name} of the examples; {has}")


@dataclasses.dataclass(frozen=True)
class Shared:
    """Options that all parts of a model share, as plain values.

    Attributes:
        norm: `pre` or `post`: normalise before each block or after it.
        positions: `sinusoidal`, `learned`, `rotary` or `none`.
        max_positions: Longest sequence, for learned positions only.
        activation: Of the feed-forward blocks.
        dropout, embedding_dropout, attention_dropout, activation_dropout: Probabilities of dropping a component of a
            block's output, of an embedded token, an attention weight, an inner state of a feed-forward block.
        tags: How many values each tag of the examples has, by its name.
        log_length_scale: Attention is scaled by the logarithm of the number of keys.
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

    def layer(self, stack) -> dict:
        """Arguments of a `Layer` of a stack of this size (`layers, width, heads, kv_heads, ffn_width`)."""
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
            **({"log_length": True} if self.log_length_scale else {}),
        }


@dataclasses.dataclass
class States:
    """What a front-end makes of a source.

    Attributes:
        values: [B, S, D], right-padded.
        lengths: [B] int64, real positions of each row; a front-end may have changed them.
        packing: Of rows that hold several examples.
        tags: Numbers of the tags' values by name, as `Batch.tags`; the model sets them.
    """

    values: Tensor
    lengths: Tensor
    packing: Packing | None = None
    tags: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    def tags_of_positions(self) -> dict[str, Tensor]:
        """Numbers of the tags' values: int64 [B, 1], or [B, S] of packed rows."""
        return {name: tag_of_positions(tag, self.packing) for name, tag in self.tags.items()}


@dataclasses.dataclass
class Memory:
    """What the encoder hands to the decoder.

    Attributes:
        states: Layer states that were asked for, each [B, S, D]; the last one is the top.
        lengths: [B] int64, real positions of each row; a front-end may have changed them.
        mask: Bool [B, 1, 1, S], true at real positions; in training perhaps float, to be added to logits of attention.
        segments: [B, S] int64, which example of its row each position belongs to, where rows are packed; else None.
        auxiliary: Further outputs by name (CTC logits, gate rates).
        tags: As of States.
    """

    states: list[Tensor]
    lengths: Tensor
    mask: Tensor
    segments: Tensor | None = None
    auxiliary: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    tags: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def top(self) -> Tensor:
        return self.states[-1]

    def visible(self, packing: Packing | None = None) -> Tensor:
        """What a decoder may see: bool [B, 1, 1, S]; of packed target rows [B, 1, T, S], each example its own source.

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
    """Teacher-forced output: the last states and what makes logits of them, so that a loss need never hold [B, T, V].

    Attributes:
        states: [B, T, D].
        output: Called with states and `context`, of all positions or of some of them, [n, ...], it returns their
            logits or log-probabilities, perhaps -inf where nothing is possible; V may be any number.
        heads: States of other layers, by their number, for which `output` is meant too, each [B, T, D].
        context: What else `output` needs of each position, [B, T, ...] (attention to a source that it copies from).
    """

    states: Tensor
    output: nn.Module
    heads: dict[int, Tensor] = dataclasses.field(default_factory=dict)
    context: tuple[Tensor, ...] = ()

    @property
    def _linear(self) -> nn.Linear | None:
        """The output where it is a linear map and nothing else."""
        output = self.output
        plain = nn.Linear in (type(output), type(output).__dict__.get("stands_for"))
        hooked = output._forward_hooks or output._forward_pre_hooks
        return cast(nn.Linear, output) if plain and not hooked and not self.context else None

    @property
    def weight(self) -> Tensor | None:
        """[V, D], where the output is a linear map; None: it is not, or is prepacked for decoding."""
        return None if self._linear is None else self._linear.weight

    @property
    def bias(self) -> Tensor | None:
        """[V], where the output is a linear map with a bias."""
        return None if self._linear is None else self._linear.bias

    def head(self, number: int) -> "DecoderOutput":
        """The output of one of `heads`."""
        return DecoderOutput(self.heads[number], self.output, {}, self.context)

    def logits(self) -> Tensor:
        """[B, T, V]"""
        return self.output(self.states, *self.context)


class DecoderState(Protocol):
    """State of B sentences x K rows, opaque to the search; row b*K + k is row k of sentence b.

    A sentence can take the place of another: each has its own position.
    """

    def empty(self, slots: int) -> "DecoderState":
        """A state of the same kind with places for so many sentences, all of them free."""

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r] of the same sentence; parents: [R] int64."""

    def admit(self, slots: Tensor, other: "DecoderState", which: Tensor) -> None:
        """Sentences `which` of a state that is fresh from `start` take these places; both [n] int64."""

    def free(self, slots: Tensor) -> None:
        """These places are free: they need no more memory, however long they stay so."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these sentences with all their rows as the first of `slots` ones, the other places are free; keep: [B']
        int64, ascending. What is held is no longer than these sentences need."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
