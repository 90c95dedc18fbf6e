"""A model of five parts: front-end, encoder, bridge, decoder, output.

    source -> front-end -> States -> encoder -> Memory -> bridge -> what each decoder layer sees -> decoder -> output

Each part is a module that knows nothing of the others. Of several sources each has a front-end and an encoder, its own
or those of the first, and the bridge joins their memories. A model without an encoder is a language model; one without
a decoder writes by CTC on its encoder.

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
from s2s.nn.attention import length_mask
from s2s.nn.initialise import initialise

NO_TAGS: Mapping[str, Tensor] = MappingProxyType({})


class EncoderDecoder(nn.Module):
    """What every model is to the rest of the toolkit. A model calls `assemble` in its constructor.

    Attributes:
        config: Its options.
        target_vocabulary_size: V.
        max_length: Tokens of a source or target at most, EOS among them; None: any number.
        together: States that a CPU encodes at once when it decodes; None: a whole batch.
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
        """The parts of a model; those that it does not have are None.

        Args:
            frontend, encoder: Of the first source, or of all.
            bridge, decoder, output: The others.
            more_frontends, more_encoders: Of each source after the first; none: it has that of the first.
        """
        self.frontend, self.encoder, self.bridge = frontend, encoder, bridge
        self.decoder, self.output = decoder, output
        self.more_frontends, self.more_encoders = nn.ModuleList(more_frontends), nn.ModuleList(more_encoders)

    @property
    def tags(self) -> tuple[str, ...]:
        """Names of the tags that the model reads: those that its modules name in an attribute `tags`."""
        parts = (module for module in self.modules() if module is not self)
        return tuple(dict.fromkeys(name for part in parts for name in getattr(part, "tags", ())))

    def tie(self, tokens: nn.Embedding) -> None:
        """Let the output have the matrix of the embedded tokens. Raises UserError: it has no matrix of that size."""
        weight = getattr(self.output, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.shape != tokens.weight.shape:
            raise UserError("model.tie_embeddings: the output has no matrix like that of the embedded tokens; "
                            "model.tie_embeddings=none (of a language model, false)")  # fmt: skip
        self.output.weight = tokens.weight

    @staticmethod
    def draw(*modules: nn.Module | None) -> None:
        """First weights of modules, drawn in this order."""
        for module in modules:
            if module is not None:
                module.apply(initialise)

    @property
    def has_decoder(self) -> bool:
        """Without one there is no `output`, and nothing from `decode` on."""
        return self.decoder is not None

    @property
    def has_ctc(self) -> bool:
        """Whether there is `ctc_log_probabilities`."""
        return getattr(self.encoder, "ctc", None) is not None

    @property
    def exits(self) -> list[int]:
        """Encoder layers, from 1, before the last that have CTC too; with them there is `exiting`."""
        return [] if self.encoder is None else list(self.encoder.exits)

    @property
    def auxiliary_heads(self) -> list[int]:
        """Decoder layers, from 1, whose states predict the target too."""
        return self.decoder.heads if self.has_decoder else []

    @property
    def attention_shape(self) -> tuple[int, int]:
        """Layers and heads of `cross_attention`, whose layers count from 0."""
        return self.decoder.attention_shape

    def stacks(self) -> list[nn.ModuleList]:
        """The layers of encoder and decoder, which are called as modules."""
        parts = (self.encoder, *self.more_encoders, self.decoder)
        return [part.layers for part in parts if part is not None]

    def memory_length(self, length: int) -> int:
        """Positions in the Memory of a source of so many tokens or frames, at most; of several sources, of each."""
        return length if self.frontend is None else self.frontend.most(length)

    def encode(self, sources: tuple[Source, ...], tags: Mapping[str, Tensor] = NO_TAGS) -> Memory:
        """The memory of sentences; padded positions hold no meaning. tags: as `Batch.tags`."""
        if self.encoder is None:  # nothing of a source, whatever it is, but that it is there
            source = sources[0]
            segments = source.packing and source.packing.segments
            mask = length_mask(source.lengths, source.values.size(1))
            return Memory([], source.lengths, mask, segments, tags=tags)
        memories = [self._encode(source._replace(tags=tags), number) for number, source in enumerate(sources)]
        memory = self.bridge.join(memories)
        memory.tags = tags
        return memory

    def _encode(self, source: Source, number: int) -> Memory:
        """The memory of the source of this number, with its tags."""
        if self.training or self.together is None or source.packing or source.values.device.type != "cpu":
            return self._encode_at_once(source, number)
        # A few rows of about one length at a time: computing on padding takes as long as on what is real.
        order = source.lengths.argsort(descending=True)
        sizes, parts, first = source.lengths[order].tolist(), [], 0
        while first < len(sizes):
            rows = order[first : first + max(1, self.together // self.memory_length(sizes[first]))]
            tags = {name: tag[rows] for name, tag in source.tags.items()}
            part = Source(source.values[rows, : sizes[first]], source.lengths[rows], tags=tags)
            parts.append(self._encode_at_once(part, number))
            first += len(rows)
        return parts[0] if len(parts) == 1 and sizes == source.lengths.tolist() else _joined(parts, order.argsort())

    def _encode_at_once(self, source: Source, number: int) -> Memory:
        frontend, encoder = self._readers(number)
        if source.packing is not None:
            self._check_segmented(frontend=frontend, encoder=encoder)
        states = frontend(source)
        states.tags = source.tags
        memory = encoder(states)
        if hasattr(self.output, "keep"):  # of the positions of the memory, or not at all
            if _same(memory.lengths, states.lengths):
                memory.auxiliary["embedded"] = states.values
            if _same(memory.lengths, source.lengths):
                memory.auxiliary["tokens"] = source.values
        return memory

    def _check_segmented(self, **parts: nn.Module) -> None:
        """Raises UserError: one of these parts does not say that it keeps the examples of a packed row apart."""
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
        """Front-end and encoder of a source."""
        frontend = self.more_frontends[number - 1] if number and self.more_frontends else self.frontend
        return frontend, self.more_encoders[number - 1] if number and self.more_encoders else self.encoder

    def ctc_log_probabilities(self, memory: Memory, which: int = -1) -> Tensor:
        """CTC on the states of an encoder's layer, `memory.states[which]`: log-probabilities [B, S', V], float32 at
        least, of which PAD is the blank."""
        logits = self.encoder.ctc(memory.states[which])
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)

    def decode(self, memory: Memory, decoder_input: Tensor, packing: Packing | None = None) -> DecoderOutput:
        """Teacher forcing. decoder_input: [B, T] int64, BOS first, right-padded; packed rows with their packing.
        Without an encoder the memory is not read."""
        if packing is not None:
            self._check_segmented(decoder=self.decoder)
        mask = memory.visible(packing) if self.decoder.attends else None
        kept = self._kept(memory)
        states, heads = self.decoder.decode(self._seen(memory), mask, self._shown(decoder_input, kept), packing)
        return DecoderOutput(states, self.output, heads, self._context(states, kept, mask))

    def _kept(self, memory: Memory) -> tuple[Tensor, ...]:
        """What an output that reads the source keeps of it, [B, S, ...] each."""
        return self.output.keep(memory) if hasattr(self.output, "keep") else ()

    def _shown(self, ids: Tensor, kept: tuple[Tensor, ...]) -> Tensor:
        """What the decoder reads of target ids, [B, T]: an output whose symbols are no fixed ones has a say in it."""
        return self.output.shown(ids, *kept) if hasattr(self.output, "shown") else ids

    def _context(self, states: Tensor, kept: tuple[Tensor, ...], mask: Tensor | None) -> tuple[Tensor, ...]:
        """What the output needs beside states [B, T, D]."""
        return self.output.context(states, *kept, mask) if kept else ()

    def _seen(self, memory: Memory) -> list[Tensor]:
        """What each decoder layer that attends sees."""
        return self.bridge.seen(memory, self.decoder.attending(self.decoder.config)) if self.decoder.attends else []

    def cross_attention(self, memory: Memory, decoder_input: Tensor, layer: int) -> Tensor:
        """Weights of the attention to the memory under teacher forcing, fp32 [B, H, T, S], of a decoder layer, counted
        from 0."""
        shown = self._shown(decoder_input, self._kept(memory))
        return self.decoder.cross_attention(self._seen(memory), memory.visible(), shown, layer)

    def start(self, memory: Memory, rows: int) -> DecoderState:
        """State for decoding `rows` rows of each sentence."""
        return self._with_source(self.decoder.start(self._seen(memory), memory.visible(), rows), memory)

    def _with_source(self, state: DecoderState, memory: Memory) -> DecoderState:
        """The state of a decoder, with what the output keeps of the sources."""
        kept = self._kept(memory)
        return cast(DecoderState, SourceState(state, kept, memory.visible())) if kept else state

    def _logits(self, states: Tensor, state: SourceState) -> Tensor:
        """Logits of states [B, T, D] of the sentences of a state."""
        return self.output(states, *self._context(states, state.values, state.mask))

    def step(self, tokens: Tensor, state: DecoderState, output: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Advance every row by one token. tokens: [R] int64; output: [B, K, D] -> [B, K, V'], in place of the model's
        own. Returns logits [R, V] or [R, V']."""
        if isinstance(state, SourceState):
            shown = self._shown(tokens.view(len(state.mask), -1), state.values).flatten()
            return self._logits(self.decoder.step(shown, state.inner), state).flatten(0, 1)
        return (output or self.output)(self.decoder.step(tokens, state)).flatten(0, 1)

    def start_blocks(self, memory: Memory) -> DecoderState:
        """State for decoding one hypothesis of each sentence, several positions at once."""
        return self._with_source(self.decoder.start_blocks(self._seen(memory), memory.visible()), memory)

    def step_block(self, tokens: Tensor, state: DecoderState) -> Tensor:
        """Advance every sentence by T tokens, each seen by those after it. tokens: [B, T] int64. Returns logits
        [B, T, V]."""
        if isinstance(state, SourceState):
            return self._logits(self.decoder.step_block(self._shown(tokens, state.values), state.inner), state)
        return self.output(self.decoder.step_block(tokens, state))

    def light(self, **parts: nn.Module | None) -> "EncoderDecoder":
        """A copy with some parts replaced; weights are shared, and this model stays as it is."""
        other = copy.copy(self)
        other._modules = {**self._modules, **parts}
        return other

    def mixing(self, shares: list[float]) -> "EncoderDecoder":
        """This model, whose logits are a weighted sum of those of `auxiliary_heads` and the top's (S064); weights are
        shared. With one output matrix for all of them it is a sum of states. shares: of each head."""
        decoder = copy.copy(self.decoder)
        decoder.shares = dict(zip(self.auxiliary_heads, shares, strict=True))
        return self.light(decoder=decoder)

    def exiting(self, layer: int | None, confidence: float | None) -> "EncoderDecoder":
        """This model with early exits, as CTC alone (S035); weights are shared.

        Args:
            layer: One of `exits`, the last that is computed; None: all are.
            confidence: An utterance goes no further than the first of `exits` where CTC's best label has this
                probability (its geometric mean over the positions); None: all go on.
        """
        return self.light(encoder=self.encoder.exiting(layer, confidence), decoder=None, output=None)

    def flops(self, source: Tensor, target: Tensor, *more: Tensor) -> int:
        """Floating-point operations of all matrix products and convolutions of a forward pass over examples of these
        lengths, [B] int64 each; attention counts whole, causal or not.

        Args:
            source: Of the first source.
            target: Of the target.
            more: Of the other sources, whose memories are counted as if they were one after the other.
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
            total += self.decoder.flops(memory, target) + 2 * int(target.sum()) * matrices
        return total


def _same(lengths: Tensor, others: Tensor) -> bool:
    return lengths is others or torch.equal(lengths, others)


def _joined(parts: list[Memory], places: Tensor) -> Memory:
    """Rows that were encoded apart as one batch, in which row i is the one of number places[i] among theirs."""
    size = max(part.top.size(1) for part in parts)
    lengths = torch.cat([part.lengths for part in parts])[places]
    columns = zip(*(part.states for part in parts), strict=True)
    states = [
        torch.cat([nn.functional.pad(x, (0, 0, 0, size - x.size(1))) for x in column])[places] for column in columns
    ]
    return Memory(states, lengths, length_mask(lengths, size))
