"""The Transformer encoder-decoder (Vaswani et al. 2017), pre-norm by default, complete in this file.

Shapes: B sentences, S source positions, T target positions, K rows a sentence, R = B*K, D model width, V vocabulary,
P real tokens of all rows, N layers, G key/value heads, d head width.
"""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.batch import Packing, Source
from s2s.errors import UserError
from s2s.models.model import DecoderOutput, Memory
from s2s.nn.attention import CrossAttention, SelfAttention, attend, heads_of, length_mask, merged, segment_mask
from s2s.nn.dropout import dropout
from s2s.nn.feedforward import ACTIVATIONS, FeedForward
from s2s.nn.positions import PositionEmbedding
from s2s.nn.slots import kept
from s2s.nn.unpad import RealTokens

UNPAD_FROM = 0.04  # share of padding from which a CPU is faster without it (tests/benchmarks/unpad.py)


@dataclasses.dataclass
class StackConfig:
    """Size of one side."""

    layers: int = option(6, "number of layers", at_least=1)
    width: int = option(512, "model width D", at_least=1)
    heads: int = option(8, "attention heads; divides the width", at_least=1)
    kv_heads: int | None = option(None, "key/value heads, shared by groups of query heads; null: as many as heads")
    ffn_width: int = option(2048, "inner width of the feed-forward blocks", at_least=1)


@dataclasses.dataclass
class EncoderConfig(StackConfig):
    """Size of the encoder, and how it computes."""

    unpad: bool | None = option(
        None,
        f"compute on real tokens only; null: on a CPU, where over {UNPAD_FROM:.0%} of a batch is padding (no GPU was "
        "measured)",
    )


@dataclasses.dataclass
class TransformerConfig:
    """Options of the Transformer."""

    type: str = option("transformer", "component")
    encoder: EncoderConfig = option(EncoderConfig, "encoder")
    decoder: StackConfig = option(StackConfig, "decoder")
    norm: str = option("pre", "normalise before each block (stable) or after it (the original)", ("pre", "post"))
    positions: str = option("sinusoidal", "position information", ("sinusoidal", "learned", "rotary"))
    max_positions: int = option(1024, "longest sequence in tokens, for learned positions only", at_least=1)
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
        [], "decoder layers, from 1, whose states predict the target too (DeCRED); criterion.auxiliary", at_least=1
    )


class Embedding(nn.Module):
    """Token embedding, scaled by sqrt(D), with positions and dropout.

    Args:
        tokens: The embedding matrix, perhaps shared.
        config: The model's options.
        width: D.
    """

    def __init__(self, tokens: nn.Embedding, config: TransformerConfig, width: int):
        super().__init__()
        self.tokens = tokens
        self.positions = PositionEmbedding(config.positions, width, config.max_positions)
        self.scale = width**0.5
        self.dropout = config.dropout if config.embedding_dropout is None else config.embedding_dropout

    def forward(self, ids: Tensor, positions: Tensor | None = None, length: int | None = None) -> Tensor:
        """ids: [B, T] int64 at positions 0 ..., or at `positions` [B, T], all less than `length`. Returns [B, T, D]."""
        x = self.positions(self.tokens(ids) * self.scale, positions, length)
        return dropout(x, self.dropout, self.training)


class Layer(nn.Module):
    """An encoder layer, or with `memory_width` a decoder layer: blocks with a residual connection and a norm each."""

    def __init__(self, config: TransformerConfig, stack: StackConfig, memory_width: int | None = None):
        super().__init__()
        width, heads, kv_heads = stack.width, stack.heads, stack.kv_heads or stack.heads
        causal, rotary = memory_width is not None, config.positions == "rotary"
        self.pre_norm, self.dropout = config.norm == "pre", config.dropout
        self.attention = SelfAttention(width, heads, kv_heads, config.attention_dropout, causal, rotary)
        self.attention_norm = nn.LayerNorm(width)
        if memory_width is not None:
            self.cross = CrossAttention(width, memory_width, heads, kv_heads, config.attention_dropout)
            self.cross_norm = nn.LayerNorm(width)
        self.feedforward = FeedForward(width, stack.ffn_width, config.activation, config.activation_dropout)
        self.feedforward_norm = nn.LayerNorm(width)

    def _block(self, x: Tensor, norm: nn.LayerNorm, block, *args) -> Tensor:
        """Residual connection around `block`, the norm before or after it."""
        y = block(norm(x) if self.pre_norm else x, *args)
        x = x + dropout(y, self.dropout, self.training)
        return x if self.pre_norm else norm(x)

    def forward(self, *args) -> Tensor:
        """`encode` or, of a decoder layer, `decode`: what an update calls, so what is sharded, compiled or done twice
        (s2s/training/layers.py)."""
        return self.decode(*args) if hasattr(self, "cross") else self.encode(*args)

    def encode(self, x: Tensor, mask: Tensor, real: RealTokens | None = None) -> Tensor:
        """x: [B, S, D], or with `real` [P, D]; mask: bool [B, 1, 1 or S, S], true at the keys of each query."""
        x = self._block(x, self.attention_norm, self.attention, mask, real)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def decode(self, x: Tensor, mask: Tensor | None, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """x: [B, T, D], all target positions at once; mask: bool [B, 1, T, T], None: causal; memory: [B, S, D];
        memory_mask: bool [B, 1, 1 or T, S]."""
        x = self._block(x, self.attention_norm, self.attention, mask)
        x = self._block(x, self.cross_norm, self.cross, self.cross.project(memory), memory_mask)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def cross_attention(self, x: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """As `decode` as far as cross-attention, of which these are the weights: fp32 [B, H, T, S]."""
        x = self._block(x, self.attention_norm, self.attention, None)
        x = self.cross_norm(x) if self.pre_norm else x
        return self.cross.weights(x, self.cross.project(memory), memory_mask)

    def step(self, x: Tensor, state: "TransformerState", n: int) -> Tensor:
        """x: [B, K, D], the states of one position of every row; this is layer n."""
        x = self._block(x, self.attention_norm, self.attention.step, state, n)
        x = self._block(x, self.cross_norm, self.cross.step, state, n)
        return self._block(x, self.feedforward_norm, self.feedforward)


class TransformerState:
    """Keys and values of a Transformer decoder: its own for each row, cross-attention's for each sentence.

    Every sentence has its own position, so that one can take the place of another.

    Args:
        key_values: [N, 2, B, G, S, d] of cross-attention.
        mask: Bool [B, 1, 1, S], true at real source positions.
        rows: K.

    Attributes:
        cache: [N, 2, R, G, L, d], own keys and values; L doubles when needed, from 32.
        steps: [B] positions done of each sentence, on the host.
        positions: [B, 1] the same on the device.
    """

    def __init__(self, key_values: Tensor, mask: Tensor, rows: int):
        self.key_values, self.mask, self.rows = key_values, mask, rows
        self.cache = key_values.new_empty(0)  # made when the first step is taken
        self.steps = np.zeros(mask.size(0), np.int64)
        self.positions = torch.zeros(mask.size(0), 1, dtype=torch.int64, device=mask.device)

    def empty(self, slots: int) -> "TransformerState":
        """A state like this one with places for so many sentences, all of them free."""
        state = type(self)(self.key_values[:, :, :0], self.mask[:0], self.rows)
        state.release(torch.arange(0, device=self.mask.device), slots)
        return state

    def begin(self) -> None:
        """Make room for one more position of every row."""
        self.length = int(self.steps.max()) + 1
        G, d = self._grow()
        # With all sentences at one position, that is where to write, and everything before it is seen.
        self.place, self.seen = self.length - 1, None
        if self.steps.min() < self.place:
            positions = self.positions.repeat_interleave(self.rows, 0)  # [R, 1]
            self.place = positions[:, :, None, None].expand(-1, G, 1, d)
            self.seen = (torch.arange(self.length, device=positions.device) <= positions)[:, None, None]

    def _grow(self) -> tuple[int, int]:
        """Have the cache hold `length` positions; returns G and d."""
        N, _, B, G, _, d = self.key_values.shape
        if not self.cache.numel():  # zeros: what is not seen counts nothing only if it is finite
            self.cache = self.key_values.new_zeros(N, 2, B * self.rows, G, 32, d)
        size = self.cache.size(4)
        if self.length > size:
            cache = self.cache.new_zeros(*self.cache.shape[:4], max(self.length, 2 * size), d)
            cache[:, :, :, :, :size] = self.cache
            self.cache = cache
        return G, d

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """Layer n's attention to a row's own positions, this one included: qkv [B, K, (H + 2G) * d], from which
        `attention` splits queries, keys and values. Returns [B, K, H * d]."""
        positions = self.positions.repeat_interleave(self.rows, 0) if attention.rotary else None
        q, k, v = attention.split(qkv.flatten(0, 1)[:, None], positions)
        keys, values = self.cache[n, 0], self.cache[n, 1]
        if self.seen is None:
            keys[:, :, self.place], values[:, :, self.place] = k[:, :, 0], v[:, :, 0]
        else:
            keys.scatter_(2, self.place, k.to(keys.dtype))
            values.scatter_(2, self.place, v.to(values.dtype))
        y = attend(q, keys[:, :, : self.length], values[:, :, : self.length], self.seen)
        return merged(y).view(-1, self.rows, y.size(1) * y.size(3))

    def cross(self, n: int, query: Tensor, heads: int) -> Tensor:
        """Layer n's attention to the source: query [B, K, H * d]. Returns [B, K, H * d]."""
        q = heads_of(query, heads)
        mask = self.mask.expand(-1, -1, q.size(2), -1)
        return merged(attend(q, self.key_values[n, 0], self.key_values[n, 1], mask))

    def advance(self) -> None:
        """A position is done."""
        self.steps += 1
        self.positions += 1

    def rewind(self, counts: Tensor) -> None:
        """Each sentence takes back so many of its last positions; counts: [B] int64."""
        self.steps -= counts.cpu().numpy()
        self.positions -= counts[:, None]

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r]; one gather over all layers."""
        used = self.cache[:, :, :, :, : self.length]
        used.copy_(used.index_select(2, parents))

    def admit(self, slots: Tensor, other: "TransformerState", which: Tensor) -> None:
        """Sentences `which` of another state, fresh from `Transformer.start`, take these places."""
        size, wanted = self.key_values.size(4), other.key_values.size(4)
        if wanted > size:
            self.key_values = nn.functional.pad(self.key_values, (0, 0, 0, wanted - size))
            self.mask = nn.functional.pad(self.mask, (0, wanted - size))
        self._forget(slots)
        self.key_values[:, :, :, :, :wanted].index_copy_(2, slots, other.key_values.index_select(2, which))
        self.mask[slots] = nn.functional.pad(other.mask[which], (0, self.mask.size(3) - wanted))
        self.steps[slots.cpu().numpy()] = 0
        self.positions[slots] = 0

    def _forget(self, slots: Tensor) -> None:
        """Nothing of who was in these places is left: what is not seen counts nothing only if it is finite."""
        self.key_values.index_fill_(2, slots, 0)
        if self.cache.numel():
            rows = slots[:, None] * self.rows + torch.arange(self.rows, device=slots.device)
            self.cache.index_fill_(2, rows.flatten(), 0)

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these sentences as the first of `slots` ones; the other places are free."""
        first = keep[:, None] * self.rows
        rows = (first + torch.arange(self.rows, device=keep.device)).flatten()
        if self.cache.numel():
            self.cache = kept(self.cache, rows, slots * self.rows, 2)
        self.key_values, self.mask = kept(self.key_values, keep, slots, 2), kept(self.mask, keep, slots)
        self.mask[len(keep) :, :, :, 0] = True  # a free place sees something, whatever it is
        steps = self.steps[keep.cpu().numpy()]
        self.steps = np.append(steps, np.zeros(slots - len(steps), np.int64))
        self.positions = kept(self.positions, keep, slots)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (self.cache, self.key_values, self.mask))


class BlockState(TransformerState):
    """State of one hypothesis a sentence that advances by T positions at once; what proves wrong is taken back.

    The layers see T rows of a sentence, as if they were K; that each row sees the ones before it is known only here.
    """

    def begin(self, width: int) -> None:
        """Make room for `width` more positions, T."""
        self.length = int(self.steps.max()) + width
        self._grow()
        device = self.positions.device
        self.places = self.positions + torch.arange(width, device=device)  # [B, T]
        self.seen = (torch.arange(self.length, device=device) <= self.places[:, :, None])[:, None]

    def attend(self, n: int, qkv: Tensor, attention: SelfAttention) -> Tensor:
        """As TransformerState.attend: qkv [B, T, (H + 2G) * d]. Returns [B, T, H * d]."""
        q, k, v = attention.split(qkv, self.places)
        keys, values = self.cache[n, 0], self.cache[n, 1]
        place = self.places[:, None, :, None].expand(k.shape)
        keys.scatter_(2, place, k.to(keys.dtype))
        values.scatter_(2, place, v.to(values.dtype))
        return merged(attend(q, keys[:, :, : self.length], values[:, :, : self.length], self.seen))

    def advance(self) -> None:
        """The positions are done."""
        self.steps += self.places.size(1)
        self.positions += self.places.size(1)


class TransformerDecoder(nn.Module):
    """What a model of any encoder has whose decoder is that of the Transformer, with `decoder_embedding`, `decoder`,
    `decoder_norm`, `output` and `head_norms`."""

    State = TransformerState
    has_decoder, has_ctc = True, False
    exits = ()  # encoder layers before the last that have CTC too, for `exiting`

    def __init__(self):
        super().__init__()
        self.shares: dict[int, float] = {}  # of `auxiliary_heads` in the logits, by layer; the top has the rest

    def memory_length(self, length: int) -> int:
        """As EncoderDecoder.memory_length: the encoder changes no length."""
        return length

    def decode(self, memory: Memory, decoder_input: Tensor, packing: Packing | None = None) -> DecoderOutput:
        """Teacher forcing. decoder_input: [B, T] int64, BOS first, right padded; packed rows with their packing."""
        segments, positions = packing or (None, None)
        mask = None if segments is None else segment_mask(segments, segments).tril()
        memory_mask = memory.visible(packing)
        x = self.decoder_embedding(decoder_input, positions=positions)
        heads = {}
        for number, layer in enumerate(self.decoder, 1):
            x = layer(x, mask, memory.top, memory_mask)
            if number in self.config.auxiliary_heads:
                heads[number] = self.head_norms[str(number)](x)
        return DecoderOutput(self._mixed(self.decoder_norm(x), heads), self.output, heads)

    def mixing(self, shares: list[float]) -> "TransformerDecoder":
        """This model, whose logits are a weighted sum of those of `auxiliary_heads` and the top's (S064); weights are
        shared. With one output matrix for all of them it is a sum of states. shares: of each head."""
        light = copy.copy(self)
        light.shares = dict(zip(self.config.auxiliary_heads, shares, strict=True))
        return light

    def _mixed(self, top: Tensor, heads: dict[int, Tensor]) -> Tensor:
        """What the output matrix is for: normed states of the top, and of the heads by layer."""
        if not self.shares:
            return top
        return (1 - sum(self.shares.values())) * top + sum(share * heads[n] for n, share in self.shares.items())

    @property
    def attention_shape(self) -> tuple[int, int]:
        """Decoder layers, and heads of each."""
        return self.config.decoder.layers, self.config.decoder.heads

    def cross_attention(self, memory: Memory, decoder_input: Tensor, layer: int) -> Tensor:
        """Cross-attention's weights under teacher forcing, fp32 [B, H, T, S], of a decoder layer, counted from 0."""
        x, mask = self.decoder_embedding(decoder_input), memory.visible()
        for below in self.decoder[:layer]:
            x = below.decode(x, None, memory.top, mask)
        return self.decoder[layer].cross_attention(x, memory.top, mask)

    def start(self, memory: Memory, rows: int) -> TransformerState:
        """State for decoding `rows` rows of each sentence."""
        key_values = torch.stack([layer.cross.project(memory.top) for layer in self.decoder])
        return self.State(key_values, memory.visible(), rows)

    def step(self, tokens: Tensor, state: TransformerState, output: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Advance every row by one token. tokens: [R] int64; output: [B, K, D] -> [B, K, V'], in place of the model's
        own map to logits. Returns logits [R, V] or [R, V']."""
        state.begin()
        positions = state.positions.expand(-1, state.rows)
        x = self.decoder_embedding(tokens.view(-1, state.rows), positions=positions, length=state.length)
        return (output or self.output)(self._advance(x, state)).flatten(0, 1)

    def _advance(self, x: Tensor, state: TransformerState) -> Tensor:
        """Embedded tokens through the layers, to what the output matrix is for."""
        heads = {}
        for n, layer in enumerate(self.decoder):
            x = layer.step(x, state, n)
            if n + 1 in self.shares:
                heads[n + 1] = self.head_norms[str(n + 1)](x)
        state.advance()
        return self._mixed(self.decoder_norm(x), heads)

    def start_blocks(self, memory: Memory) -> BlockState:
        """State for decoding one hypothesis of each sentence, several positions at once."""
        key_values = torch.stack([layer.cross.project(memory.top) for layer in self.decoder])
        return BlockState(key_values, memory.visible(), 1)

    def step_block(self, tokens: Tensor, state: BlockState) -> Tensor:
        """Advance every sentence by T tokens, each seen by those after it. tokens: [B, T] int64. Returns logits
        [B, T, V]."""
        state.begin(tokens.size(1))
        x = self.decoder_embedding(tokens, positions=state.places, length=state.length)
        return self.output(self._advance(x, state))


class Transformer(TransformerDecoder):
    """The Transformer.

    Args:
        config: Its options.
        source_size: Source vocabulary size.
        target_size: V.
        shared_vocabulary: Both sides have the same vocabulary.

    Raises:
        UserError: widths, heads or ties that do not fit together.
    """

    Config = TransformerConfig

    def __init__(self, config: TransformerConfig, source_size: int, target_size: int, shared_vocabulary: bool = False):
        super().__init__()
        self.config, self.target_vocabulary_size = config, target_size
        self.max_length = config.max_positions if config.positions == "learned" else None
        encoder, decoder = config.encoder, config.decoder
        for side, stack in (("encoder", encoder), ("decoder", decoder)):
            check_heads(f"model.{side}", stack, config.positions)
        tie = _tie(config, shared_vocabulary)
        source = nn.Embedding(source_size, encoder.width)
        target = source if tie in ("inputs", "all") else nn.Embedding(target_size, decoder.width)
        self.encoder_embedding = Embedding(source, config, encoder.width)
        self.decoder_embedding = Embedding(target, config, decoder.width)
        self.encoder = nn.ModuleList(Layer(config, encoder) for _ in range(encoder.layers))
        self.decoder = nn.ModuleList(Layer(config, decoder, encoder.width) for _ in range(decoder.layers))
        pre = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(encoder.width) if pre else nn.Identity()
        self.decoder_norm = nn.LayerNorm(decoder.width) if pre else nn.Identity()
        self.output = nn.Linear(decoder.width, target_size, bias=False)
        self.head_norms = head_norms(config)
        self.apply(initialise)
        if tie in ("decoder", "all"):
            self.output.weight = target.weight

    def encode(self, sources: tuple[Source, ...], tags: Tensor | None = None) -> Memory:
        """The encoder over one source. Returns the top states [B, S, D]; padded positions hold no meaning."""
        (source,) = sources
        segments, positions = source.packing or (None, None)
        keys = length_mask(source.lengths, source.values.size(1))
        mask = keys if segments is None else keys & segment_mask(segments, segments)
        real = RealTokens(keys[:, 0, 0]) if self._unpads(source) else None
        x = self.encoder_embedding(source.values, positions=positions)
        x = x if real is None else real.unpad(x)
        for layer in self.encoder:
            x = layer(x, mask, real)
        x = self.encoder_norm(x)
        return Memory([x if real is None else real.pad(x)], source.lengths, keys, segments)

    def _unpads(self, source: Source) -> bool:
        """Whether the encoder computes on real tokens only."""
        if self.config.encoder.unpad is not None:
            return self.config.encoder.unpad
        ids, lengths = source.values, source.lengths
        return ids.device.type == "cpu" and int(lengths.sum()) < (1 - UNPAD_FROM) * ids.numel()

    def parts(self) -> dict[str, int]:
        """Number of parameters by part, shared ones counted once."""
        embeddings = {id(p): p for p in (self.encoder_embedding.tokens.weight, self.decoder_embedding.tokens.weight,
                                         self.output.weight)}  # fmt: skip
        total = sum(p.numel() for p in self.parameters())
        encoder = sum(p.numel() for part in (self.encoder, self.encoder_norm) for p in part.parameters())
        matrices = sum(p.numel() for p in embeddings.values())
        return {"embeddings and output": matrices, "encoder": encoder, "decoder": total - matrices - encoder}

    def flops(self, source: Tensor, target: Tensor) -> int:
        """Floating-point operations of all matrix products of a forward pass over pairs of these lengths, both [B]
        int64; attention counts whole, causal or not."""
        S, T = int(source.sum()), int(target.sum())
        encoder, decoder = (
            sum(p.numel() for p in s.parameters() if p.dim() == 2) for s in (self.encoder, self.decoder)
        )
        memory = sum(layer.cross.key_value.weight.numel() for layer in self.decoder)  # these products are over S
        linear = S * (encoder + memory) + T * (decoder - memory + self.output.weight.numel())
        seen = len(self.encoder) * self.config.encoder.width * int((source * source).sum())
        seen += len(self.decoder) * self.config.decoder.width * int((target * (target + source)).sum())
        return 2 * linear + 4 * seen  # attention: scores, and sums of values


def head_norms(config) -> nn.ModuleDict:
    """A norm for each layer of `auxiliary_heads`, whose output matrix is the decoder's. Raises UserError."""
    stack = config.decoder
    for number in config.auxiliary_heads:
        if number >= stack.layers:
            raise UserError(f"model.auxiliary_heads={config.auxiliary_heads}: layers from 1 to "
                            f"{stack.layers - 1} can have one")  # fmt: skip
    return nn.ModuleDict({str(number): nn.LayerNorm(stack.width) for number in config.auxiliary_heads})


def check_heads(key: str, stack: StackConfig, positions: str) -> None:
    """The arithmetic of heads. Raises UserError."""
    if stack.width % stack.heads:
        raise UserError(f"{key}.width={stack.width} is not a multiple of {key}.heads={stack.heads}")
    if stack.kv_heads is not None and (stack.kv_heads < 1 or stack.heads % stack.kv_heads):
        raise UserError(f"{key}.kv_heads={stack.kv_heads} does not divide {key}.heads={stack.heads}")
    if stack.width % 2 or (positions == "rotary" and stack.width // stack.heads % 2):
        raise UserError(f"{key}.width={stack.width}: widths must be even (and with rotary positions, a head's too)")


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


def initialise(module: nn.Module) -> None:
    """Xavier-uniform projections with zero biases (fused ones as their parts), embeddings of deviation 1/sqrt(D)."""
    if isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
    elif isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, SelfAttention):
        for part in module.qkv.weight.split(module.sizes):
            nn.init.xavier_uniform_(part, gain=2**-0.5)
    elif isinstance(module, CrossAttention):
        for part in module.key_value.weight.chunk(2):
            nn.init.xavier_uniform_(part, gain=2**-0.5)
