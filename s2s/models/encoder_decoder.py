"""A model of five parts: front-end, encoder, bridge, decoder, output.

    source -> front-end -> States -> encoder -> Memory -> bridge -> what each decoder layer sees -> decoder -> output

Each part is a module that knows nothing of the others. Where there are several sources, each has a front-end and an
encoder, its own or those of the first source, and the bridge joins their memories. A model without an encoder is a
language model. A model without a decoder writes its output by CTC on the encoder.

Shapes: B sentences, S source positions, T target positions, K rows a sentence, R = B*K, D width, V vocabulary.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor, nn

from s2s.data.batch import Packing, Source
from s2s.errors import UserError
from s2s.models.contract import DecoderOutput, DecoderState, Memory
from s2s.models.source_state import SourceState
from s2s.nn.adapted import plain
from s2s.nn.attention import length_mask
from s2s.nn.initialise import initialise

NO_TAGS: Mapping[str, Tensor] = MappingProxyType({})


class EncoderDecoder(nn.Module):
    """The base class of every model, and its interface to the toolkit. A model calls `assemble` in its constructor.

    Attributes:
        config: The options of the model.
        target_vocabulary_size: V.
        max_length: Longest source or target in tokens, with EOS; None: no limit.
        together: Number of states that a CPU encodes at once in decoding; None: a whole batch.
    """

    frontend: Any  # a part is a module of any kind, or None
    encoder: Any
    bridge: Any
    decoder: Any
    output: Any
    more_frontends: nn.ModuleList
    more_encoders: nn.ModuleList
    target_vocabulary_size: int
    max_length: int | None = None
    together: int | None = None

    def assemble(self, frontend: nn.Module | None, encoder: nn.Module | None, bridge: nn.Module,
                 decoder: nn.Module | None, output: nn.Module | None, more_frontends: Sequence[nn.Module] = (),
                 more_encoders: Sequence[nn.Module] = ()) -> None:  # fmt: skip
        """Set the parts of the model. A part that the model does not have is None.

        Args:
            frontend, encoder: Those of the first source, or of all sources.
            bridge, decoder, output: The other parts.
            more_frontends, more_encoders: One for each source after the first; empty: all sources share the first.
        """
        self.frontend, self.encoder, self.bridge = frontend, encoder, bridge
        self.decoder, self.output = decoder, output
        self.more_frontends, self.more_encoders = nn.ModuleList(more_frontends), nn.ModuleList(more_encoders)

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the tags that the model reads. Its modules name them in an attribute `tags`."""
        modules = (module for module in self.modules() if module is not self)
        return tuple(dict.fromkeys(name for module in modules for name in getattr(module, "tags", ())))

    def tie(self, tokens: nn.Embedding) -> None:
        """Share the embedding matrix with the output. Raises UserError: the output has no matrix of that size."""
        weight = getattr(self.output, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.shape != tokens.weight.shape:
            raise UserError("model.tie_embeddings: the output has no matrix like that of the embedded tokens; "
                            "model.tie_embeddings=none (of a language model, false)")  # fmt: skip
        self.output.weight = tokens.weight

    @staticmethod
    def draw(*modules: nn.Module | None) -> None:
        """Draw the initial weights of modules, in this order."""
        for module in modules:
            if module is not None:
                module.apply(initialise)

    @property
    def max_source(self) -> int | None:
        """As `max_length`, of a source; a front-end with positions of its own may say it."""
        return getattr(self.frontend, "max_length", None) or self.max_length

    @property
    def has_decoder(self) -> bool:
        """Whether there is a decoder. Without one there is no `output`, and no teacher forcing or step."""
        return self.decoder is not None

    @property
    def has_ctc(self) -> bool:
        """Whether there is `ctc_log_probabilities`."""
        return getattr(self.encoder, "ctc", None) is not None

    @property
    def exits(self) -> list[int]:
        """Encoder layers below the top that have CTC too, from 1. Where there are any, `exiting` can be called."""
        return [] if self.encoder is None else list(self.encoder.exits)

    @property
    def auxiliary_heads(self) -> list[int]:
        """Decoder layers below the top whose states predict the target too, from 1."""
        return self.decoder.heads if self.has_decoder else []

    @property
    def attention_shape(self) -> tuple[int, int]:
        """Numbers of layers and heads of `cross_attention`."""
        return self.decoder.attention_shape

    def stacks(self) -> list[nn.ModuleList]:
        """The layers of each encoder and of the decoder. An update calls each layer as a module."""
        parts = (self.encoder, *self.more_encoders, self.decoder)
        return [part.layers for part in parts if part is not None]

    def memory_length(self, length: int) -> int:
        """Most positions in the Memory of a source of `length` tokens or frames; the same holds for each source."""
        return length if self.frontend is None else self.frontend.most(length)

    def encode(self, sources: tuple[Source, ...], tags: Mapping[str, Tensor] = NO_TAGS) -> Memory:
        """The memory of sentences. States at padding have no meaning. tags: as in `Batch.tags`."""
        if self.encoder is None:  # a language model reads only the number of sentences and their lengths
            source = sources[0]
            segments = source.packing and source.packing.segments
            mask = length_mask(source.lengths, source.values.size(1))
            return Memory([], source.lengths, mask, segments, tags=tags)
        memories = [self._encode(source._replace(tags=tags), number) for number, source in enumerate(sources)]
        memory = self.bridge.join(memories)
        memory.tags = tags
        return memory

    def _encode(self, source: Source, number: int) -> Memory:
        """The memory of the source with index `number`."""
        if self.training or self.together is None or source.packing or source.values.device.type != "cpu":
            return self._encode_at_once(source, number)
        # A few rows of similar length at a time: computing on padding takes as long as on real positions.
        order = source.lengths.argsort(descending=True)
        sizes, parts, first = source.lengths[order].tolist(), [], 0
        while first < len(sizes):
            rows = order[first : first + max(1, self.together // self.memory_length(sizes[first]))]
            tags = {name: tag[rows] for name, tag in source.tags.items()}
            shorter = Source(source.values[rows, : sizes[first]], source.lengths[rows], tags=tags)
            parts.append(self._encode_at_once(shorter, number))
            first += len(rows)
        return parts[0] if len(parts) == 1 and sizes == source.lengths.tolist() else _joined(parts, order.argsort())

    def _encode_at_once(self, source: Source, number: int) -> Memory:
        frontend, encoder = self._readers(number)
        if source.packing is not None:
            self._check_segmented(frontend=frontend, encoder=encoder)
        if source.values.is_floating_point():  # a model in half precision reads features in half precision
            source = source._replace(values=source.values.to(next(frontend.parameters()).dtype))
        states = frontend(source)
        states.tags = source.tags
        memory = encoder(states)
        if hasattr(self.output, "keep"):  # only where they have the positions of the memory
            if _same(memory.lengths, states.lengths):
                memory.auxiliary["embedded"] = states.values
            if _same(memory.lengths, source.lengths):
                memory.auxiliary["tokens"] = source.values
        return memory

    def _check_segmented(self, **parts: nn.Module) -> None:
        """Raises UserError if a part does not declare (`segmented`) that it separates the examples of a packed row."""
        for name, part in parts.items():
            if not getattr(part, "segmented", False):
                options = getattr(self.config, name)
                layer = getattr(options, "layer", None)
                kind = f"model.{name}={options.type}" if hasattr(options, "type") else f"model={self.config.type}"
                said = kind + (f" model.{name}.layer={layer.type}" if layer else "")
                raise UserError(
                    f"{said}: examples of a packed row would see each other; data.batching=token_budget, "
                    "decode.pack_source=false"
                )

    def _readers(self, number: int) -> tuple[Any, Any]:
        """Front-end and encoder of the source with index `number`."""
        frontend = self.more_frontends[number - 1] if number and self.more_frontends else self.frontend
        return frontend, self.more_encoders[number - 1] if number and self.more_encoders else self.encoder

    def ctc_log_probabilities(self, memory: Memory, which: int = -1) -> Tensor:
        """CTC log-probabilities [B, S', V] of the encoder states `memory.states[which]`, in float32 or wider. PAD is
        the blank."""
        logits = self.encoder.ctc(memory.states[which])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)

    def decode(self, memory: Memory, decoder_input: Tensor, packing: Packing | None = None) -> DecoderOutput:
        """The output under teacher forcing. A language model does not read the memory.

        Args:
            memory: Of the same rows.
            decoder_input: [B, T] int64, BOS first, right-padded.
            packing: Which example each position belongs to, where rows are packed.
        """
        if packing is not None:
            self._check_segmented(decoder=self.decoder)
        mask = memory.visible(packing) if self.decoder.attends else None
        copies = None if mask is None else self._copied(mask)
        kept = self._kept(memory)
        states, heads = self.decoder.decode(self._seen(memory), copies, self._shown(decoder_input, kept), packing)
        return DecoderOutput(states, self.output, heads, self._context(states, kept, mask))

    def _kept(self, memory: Memory) -> tuple[Tensor, ...]:
        """Tensors that an output layer which reads the source keeps of it, [B, S, ...] each."""
        return self.output.keep(memory) if hasattr(self.output, "keep") else ()

    def _shown(self, ids: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
        """The tokens that the decoder reads for target ids, [B, T]. An output layer without a fixed vocabulary maps ids
        to tokens."""
        return self.output.shown(ids, *kept) if hasattr(self.output, "shown") else ids

    def _context(self, states: Tensor, kept: tuple[Tensor, ...], mask: Tensor | None) -> tuple[Tensor, ...]:
        """The inputs of the output layer beside states [B, T, D]."""
        return self.output.context(states, *kept, mask) if kept else ()

    def _seen(self, memory: Memory) -> list[Tensor]:
        """The memory states of each decoder layer that has cross-attention, and then the last states of the encoder if
        the decoder begins with them."""
        seen = self.bridge.seen(memory, self.decoder.attending(self.decoder.config)) if self.decoder.attends else []
        return [*seen, cast(Tensor, memory.last)] if getattr(self.decoder, "reads_last", False) else seen

    def _copied(self, mask: Tensor) -> Tensor:
        """The mask of what `bridge.seen` returns, from that of the memory, [B, 1, 1 or T, S]. A bridge that shows
        several states for each position says how many (`copies`)."""
        copies = getattr(self.bridge, "copies", 1)
        return mask if copies == 1 else mask.repeat_interleave(copies, -1)

    def cross_attention(self, memory: Memory, decoder_input: Tensor, layer: int) -> Tensor:
        """Cross-attention weights of a decoder layer under teacher forcing, fp32 [B, H, T, S]; layer: from 0."""
        shown = self._shown(decoder_input, self._kept(memory))
        seen, mask = self._seen(memory), memory.visible()
        weights = self.decoder.cross_attention(seen, self._copied(mask), shown, layer)
        return weights if weights.size(-1) == mask.size(-1) else weights.unflatten(-1, (mask.size(-1), -1)).sum(-1)

    def start(self, memory: Memory, rows: int) -> DecoderState:
        """The state before the first step, with `rows` rows for each sentence."""
        return self._with_source(self.decoder.start(self._seen(memory), self._copied(memory.visible()), rows), memory)

    def _with_source(self, state: DecoderState, memory: Memory) -> DecoderState:
        """The state of a decoder together with the tensors that the output layer keeps of the sources."""
        kept = self._kept(memory)
        return cast(DecoderState, SourceState(state, kept, memory.visible())) if kept else state

    def _logits(self, states: Tensor, state: SourceState) -> Tensor:
        """Logits of decoder states [B, T, D]; state: of the same sentences."""
        return self.output(states, *self._context(states, state.values, state.mask))

    def step(self, tokens: Tensor, state: DecoderState, output: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Advance every row by one token.

        Args:
            tokens: [R] int64.
            state: Of these rows; it is changed in place.
            output: A map [B, K, D] -> [B, K, V'] that replaces the output layer; None: the output layer.

        Returns:
            Logits [R, V] or [R, V'].
        """
        if isinstance(state, SourceState):
            shown = self._shown(tokens.view(len(state.mask), -1), state.values).flatten()
            return self._logits(self.decoder.step(shown, state.inner), state).flatten(0, 1)
        return (output or self.output)(self.decoder.step(tokens, state)).flatten(0, 1)

    def start_blocks(self, memory: Memory) -> DecoderState:
        """The state before the first step, for one hypothesis a sentence that advances by several positions at once."""
        state = self.decoder.start_blocks(self._seen(memory), self._copied(memory.visible()))
        return self._with_source(state, memory)

    def step_block(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Advance every sentence by T tokens; each token sees those before it. tokens: [B, T] int64. Returns logits
        [B, T, V]."""
        if isinstance(state, SourceState):
            return self._logits(self.decoder.step_block(self._shown(tokens, state.values), state.inner), state)
        return self.output(self.decoder.step_block(tokens, state))

    def light(self, **parts: nn.Module | None) -> "EncoderDecoder":
        """A copy of the model with some parts replaced. The weights are shared, and this model does not change."""
        other = copy.copy(self)
        other._modules = {**self._modules, **parts}
        return other

    def merged(self) -> "EncoderDecoder":
        """A copy in which linear maps with an adapter that can be added to them are plain linear maps; the model itself
        if there are none. Other weights are shared."""
        return plain(self, all_kinds=False)

    def mixing(self, shares: list[float]) -> "EncoderDecoder":
        """A copy that mixes the logits of `auxiliary_heads` with those of the top layer; the weights are shared. All
        heads have one output matrix, so the copy mixes states. shares: the weight of each head."""
        decoder = copy.copy(self.decoder)
        decoder.shares = dict(zip(self.auxiliary_heads, shares, strict=True))
        return self.light(decoder=decoder)

    def exiting(self, layer: int | None, confidence: float | None) -> "EncoderDecoder":
        """A copy with early exits and CTC as its only output; the weights are shared.

        Args:
            layer: The last encoder layer that is computed, one of `exits`; None: the top layer.
            confidence: An utterance stops at the first layer of `exits` where the geometric mean, over positions, of
                the best label's CTC probability reaches this value; None: no utterance stops early.
        """
        return self.light(encoder=self.encoder.exiting(layer, confidence), decoder=None, output=None)

    def flops(self, source: Tensor, target: Tensor, *more: Tensor) -> int:
        """Floating-point operations of all matrix products and convolutions of a forward pass. Causal attention counts
        as much as full attention.

        Args:
            source: Lengths of the first source, [B] int64.
            target: Lengths of the target, [B] int64.
            more: Lengths of each further source, [B] int64. The decoder's attention counts the sum of all memories.
        """
        total, memory = 0, source
        if self.encoder is not None:
            for number, lengths in enumerate((source, *more)):
                frontend, encoder = self._readers(number)
                positions = torch.tensor([frontend.most(length) for length in lengths.tolist()])
                total += frontend.flops(lengths) + encoder.flops(positions)
                memory = memory + positions if number else positions
        if self.has_decoder:
            matrices = sum(p.numel() for p in self.output.parameters() if p.dim() == 2)
            memory = memory * getattr(self.bridge, "copies", 1)
            total += self.decoder.flops(memory, target) + 2 * int(target.sum()) * matrices
        return total


def _same(lengths: Tensor, others: Tensor) -> bool:
    return lengths is others or torch.equal(lengths, others)


def _joined(parts: list[Memory], places: Tensor) -> Memory:
    """One batch of rows that were encoded in parts: row i of the batch is row places[i] of the concatenated parts."""
    size = max(part.top.size(1) for part in parts)
    lengths = torch.cat([part.lengths for part in parts])[places]
    columns = zip(*(part.states for part in parts), strict=True)
    states = [
        torch.cat([nn.functional.pad(x, (0, 0, 0, size - x.size(1))) for x in column])[places] for column in columns
    ]
    last = None if parts[0].last is None else torch.cat([cast(Tensor, part.last) for part in parts])[places]
    return Memory(states, lengths, length_mask(lengths, size), last=last)
