"""What every encoder-decoder is to the rest of the toolkit: encode, decode, and start/step for incremental decoding."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor, nn

from s2s.data.batch import Packing, Source
from s2s.nn.attention import segment_mask


@dataclasses.dataclass
class Memory:
    """What the encoder hands to the decoder.

    Attributes:
        states: Layer states that were asked for, each [B, S, D]; the last one is the top.
        lengths: [B] int64, real positions of each row; a front-end may have changed them.
        mask: Bool [B, 1, 1, S], true at real positions.
        segments: [B, S] int64, which example of its row each position belongs to, where rows are packed; else None.
        auxiliary: Further outputs by name (CTC logits, gate rates).
    """

    states: list[Tensor]
    lengths: Tensor
    mask: Tensor
    segments: Tensor | None = None
    auxiliary: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def top(self) -> Tensor:
        return self.states[-1]

    def visible(self, packing: Packing | None = None) -> Tensor:
        """What a decoder may see: bool [B, 1, 1, S]; of packed target rows [B, 1, T, S], each example its own source.

        Raises:
            ValueError: packed rows on one side only.
        """
        if (packing is None) != (self.segments is None):
            raise ValueError("source and target rows must both be packed, or neither")
        return self.mask if packing is None else self.mask & segment_mask(packing.segments, self.segments)


@dataclasses.dataclass
class DecoderOutput:
    """Teacher-forced output: the last states and the output matrix, so that a loss need never hold [B, T, V].

    Attributes:
        states: [B, T, D].
        output: The linear map to logits, D to V; of a model packed for decoding it has no weights to see.
        heads: States of other layers, by their number, for which `output` is meant too, each [B, T, D].
    """

    states: Tensor
    output: nn.Module
    heads: dict[int, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def weight(self) -> Tensor:
        """[V, D]"""
        return self.output.weight

    @property
    def bias(self) -> Tensor | None:
        """[V]"""
        return self.output.bias

    def logits(self) -> Tensor:
        """[B, T, V]"""
        return self.output(self.states)


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

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these sentences with all their rows as the first of `slots` ones, the other places are free; keep: [B']
        int64, ascending."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""


class EncoderDecoder(Protocol):
    """The calls of a model, the size of what it predicts, and how long a sequence may be."""

    target_vocabulary_size: int
    max_length: int | None  # tokens of a source or target at most, EOS among them; None: any number
    output: nn.Module  # the linear map to logits; `step` takes another in its place
    attention_shape: tuple[int, int]  # layers and heads of `cross_attention`, whose layers count from 0
    has_decoder: bool  # without one there are no `output` and nothing from `decode` on
    has_ctc: bool  # `ctc_log_probabilities` of a Memory: [B, S, V] float32, of which PAD is the blank
    exits: Sequence[int]  # encoder layers, from 1, before the last that have CTC too; with them there is `exiting`

    def encode(self, sources: tuple[Source, ...], tags: Tensor | None = None) -> Memory: ...

    def memory_length(self, length: int) -> int:
        """Positions in the Memory of a source of so many tokens or frames."""

    def decode(self, memory: Memory, decoder_input: Tensor, packing: Packing | None = None) -> DecoderOutput: ...

    def cross_attention(self, memory: Memory, decoder_input: Tensor, layer: int) -> Tensor: ...

    def flops(self, source: Tensor, target: Tensor) -> int: ...

    def start(self, memory: Memory, rows: int) -> DecoderState: ...

    def step(self, tokens: Tensor, state: DecoderState, output: Callable[[Tensor], Tensor] | None = None) -> Tensor: ...
