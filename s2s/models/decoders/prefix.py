"""Decoder-only models: one stack of layers over source and target, as a prefix language model or PALM.

Paper: Fu et al., "Decoder-Only or Encoder-Decoder? Interpreting Language Model as a Regularized Encoder-Decoder", 2023,
https://arxiv.org/abs/2304.04052; Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", JMLR 2020, https://arxiv.org/abs/1910.10683, for the prefix mask.

The states of source and target are concatenated, [B, S + T, D], and each layer has one self-attention over them. With
`mask=prefix` a source position sees the whole source; with `mask=causal` it sees only the source up to itself. A target
position sees the whole source and the target up to itself. With `partial_attention` each layer has a second attention
after the first, whose keys and values come from the S source positions only, so that attention to the source does not
fade as the output grows (PALM). Target positions continue those of the source, or count from 0
(`target_positions=separate`). `segments` adds one learned vector to all source states and another to all target states.
In decoding, keys and values of the source are computed once for each sentence. `alignment=true` writes the weights of
the first attention to source positions; their sum is the share of attention that the source receives.

Use: model=decoder_only_tiny; model=palm_tiny, or model.encoder=none model.decoder=prefix
model.decoder.partial_attention=true

Left out: nothing; RED, the encoder-decoder by which the paper explains decoder-only models, is `model=red_tiny`, that
is `mask=causal`, with `criterion=source_auto_encoding`. Uncertain: whether source positions have the partial attention
too (here they do), and from which states its keys are computed (here the states after the first attention).
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.data.batch import Packing
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.stack import DecoderConfig
from s2s.nn.attention import attend, merged
from s2s.nn.embedding import Embedding
from s2s.nn.layers import Layer
from s2s.nn.state import TransformerState


@dataclasses.dataclass
class PrefixConfig(DecoderConfig):
    """Options of the decoder."""

    type: str = option("prefix", "component")
    mask: str = option("prefix", "what a source position sees: the whole source, or nothing after it",
                       ("prefix", "causal"))  # fmt: skip
    partial_attention: bool = option(False, "each layer has an attention to the source alone, too")
    target_positions: str = option("continued", "of the target: after those of the source, or from 0",
                                   ("continued", "separate"))  # fmt: skip
    segments: bool = option(False, "a learned vector for each side")


class PrefixLayer(Layer):
    """The Transformer layer over source and target. With `memory_width` it has the partial attention."""

    def decode(self, x: Tensor, mask: Tensor, size: int, seen_mask: Tensor) -> Tensor:
        """x: [B, S + T, D]; mask: bool [B, 1, S + T, S + T]; size: S; seen_mask: bool [B, 1, 1, S]."""
        x = self._block(x, self.attention_norm, self.attention, mask)
        x = self._block(x, self.cross_norm, self._partial, size, seen_mask)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def _partial(self, x: Tensor, size: int, seen_mask: Tensor) -> Tensor:
        return self.cross(x, self.cross.keys_and_values(x[:, :size]), seen_mask)

    def source(self, x: Tensor, mask: Tensor, seen_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The layer over the source positions only.

        Args:
            x: [B, S, D].
            mask: Bool [B, 1, 1 or S, S], of the first attention.
            seen_mask: Bool [B, 1, 1, S], of the partial attention.

        Returns:
            States [B, S, D], and keys and values [2 or 4, B, G, S, d]: those of the first attention, then those of the
            partial one.
        """
        kept = list(self.attention.split(self.attention.qkv(self.attention_norm(x) if self.pre_norm else x))[1:])
        x = self._block(x, self.attention_norm, self.attention, mask)
        if self.attends:
            kept += self.cross.project(self.cross_norm(x) if self.pre_norm else x)
            x = self._block(x, self.cross_norm, self._partial, x.size(1), seen_mask)
        return self._block(x, self.feedforward_norm, self.feedforward), torch.stack(kept)


class PrefixState(TransformerState):
    """A TransformerState whose self-attention also sees the keys and values of the source, [N, 2 or 4, B, G, S, d]. The
    last two of four belong to the partial attention."""

    def attend(self, n: int, qkv: Tensor, attention) -> Tensor:
        """As TransformerState.attend."""
        q, k, v = attention.split(qkv.flatten(0, 1)[:, None])
        for held, new in zip(self.cache[n], (k, v), strict=True):
            if self.seen is None:
                held[:, :, self.place] = new[:, :, 0]
            else:
                held.scatter_(2, self.place, new.to(held.dtype))
        keys, values = (torch.cat([self.key_values[n, i].repeat_interleave(self.rows, 0),
                                   self.cache[n, i, :, :, : self.length]], dim=2) for i in (0, 1))  # fmt: skip
        own = self.mask.new_ones(len(q), 1, 1, self.length) if self.seen is None else self.seen
        seen = torch.cat([self.mask.repeat_interleave(self.rows, 0), own], dim=3)
        return merged(attend(q, keys, values, seen)).view(-1, self.rows, qkv.size(2) - sum(attention.sizes[1:]))

    def cross(self, n: int, query: Tensor, attention) -> Tensor:
        """As TransformerState.cross, for the partial attention."""
        q = query.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
        mask = self.mask.expand(-1, -1, q.size(2), -1)
        return merged(attend(q, self.key_values[n, 2], self.key_values[n, 3], mask))


class PrefixDecoder(TransformerDecoder):
    """A decoder whose layers run over source and target.

    Args:
        config, shared, embedding, memory_width, heads: As in TransformerDecoder.

    Raises:
        UserError: options that exclude each other.
    """

    Config = PrefixConfig
    State = PrefixState
    segmented = False
    sees_shares = False
    step_block = None  # type: ignore[assignment]  # its state takes one position of each row

    def __init__(self, config: PrefixConfig, shared: Shared, embedding: Embedding, memory_width: int,
                 heads: list[int] = ()):  # fmt: skip
        self.continued, self.partial = config.target_positions == "continued", config.partial_attention
        super().__init__(config, shared, embedding, memory_width, heads)
        if memory_width != config.width:
            raise UserError(f"model.decoder=prefix: has one row for both sides; model.decoder.width={config.width}"
                            f" must be that of the memory, {memory_width}")  # fmt: skip
        if shared.positions == "rotary" or (shared.positions == "learned" and self.continued):
            raise UserError(f"model.positions={shared.positions}: model.decoder=prefix needs sinusoidal or none, or "
                            "learned with model.decoder.target_positions=separate")  # fmt: skip
        shared.refuse("model.decoder=prefix", "log_length_scale", "relative_bias")
        self.segments = nn.Parameter(torch.zeros(2, config.width)) if config.segments else None

    def _layers(self, config: PrefixConfig, options: dict[str, Any]) -> nn.ModuleList:
        options["memory_width"] = config.width if config.partial_attention else None
        return nn.ModuleList(PrefixLayer(**options) for _ in range(config.layers))

    @staticmethod
    def attending(config: PrefixConfig) -> int:
        """1, because all layers see the same memory."""
        return 1

    def _source(self, memory: Tensor, seen_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Input states of the source, and their mask of self-attention, bool [B, 1, 1 or S, S]."""
        seen = seen_mask
        if self.config.mask == "causal":
            seen = seen & torch.ones(memory.size(1), memory.size(1), dtype=torch.bool, device=memory.device).tril()
        return memory if self.segments is None else memory + self.segments[0], seen

    def _target(self, ids: Tensor, positions: Tensor | None, lengths: Tensor, most: int) -> Tensor:
        """Embed target tokens.

        Args:
            ids: [B, T] int64.
            positions: [B, T], within the target from 0; None: 0, 1 ...
            lengths: [B, 1], lengths of the sources.
            most: Greater than every position.

        Returns:
            [B, T, D]
        """
        if self.continued:
            positions = lengths + (torch.arange(ids.size(1), device=ids.device) if positions is None else positions)
        x = self.embedding(ids, positions=positions, length=most)
        return x if self.segments is None else x + self.segments[1]

    def _joined(self, memory: Tensor, seen_mask: Tensor, decoder_input: Tensor) -> tuple[Tensor, Tensor]:
        """Input states of source and target, and their mask of self-attention, bool [B, 1, S + T, S + T]."""
        (x, seen), S, T = self._source(memory, seen_mask), memory.size(1), decoder_input.size(1)
        y = self._target(decoder_input, None, seen_mask[:, 0, 0].sum(1, keepdim=True), S + T if self.continued else T)
        mask = seen.new_zeros(len(x), 1, S + T, S + T)
        mask[:, :, :S, :S], mask[:, :, S:, :S] = seen, seen_mask
        mask[:, :, S:, S:] = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
        return torch.cat([x, y.to(x.dtype)], dim=1), mask

    def _layer(self, layer: nn.Module, x: Tensor, mask: Tensor, seen_mask: Tensor) -> Tensor:
        return layer(x, mask, seen_mask.size(3), seen_mask) if self.partial else layer(x, mask)

    def decode(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor,
               packing: Packing | None = None) -> tuple[Tensor, dict[int, Tensor]]:  # fmt: skip
        """As in TransformerDecoder; rows are not packed."""
        (memory,), states = seen, {}
        x, mask = self._joined(memory, seen_mask, decoder_input)
        for number, layer in enumerate(self.layers, 1):
            x = self._layer(layer, x, mask, seen_mask)
            if str(number) in self.head_norms:
                states[number] = self._scaled(self.head_norms[str(number)](x[:, memory.size(1) :]))
        return self._mixed(self._scaled(self.norm(x[:, memory.size(1) :])), states), states

    def source_states(self, memory: Tensor, seen_mask: Tensor) -> Tensor:
        """States of the source positions for the output layer, [B, S, D]; no target position changes them.

        Args:
            memory: The embedded source, [B, S, D].
            seen_mask: Bool [B, 1, 1, S], true at real positions.
        """
        x, mask = self._source(memory, seen_mask)
        for layer in self.layers:
            x = self._layer(layer, x, mask, seen_mask)
        return self._scaled(self.norm(x))

    def cross_attention(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, layer: int) -> Tensor:
        """Self-attention weights of target positions to source positions, fp32 [B, H, T, S]. Their sum may be below 1,
        because target positions have the rest."""
        (memory,) = seen
        x, mask = self._joined(memory, seen_mask, decoder_input)
        for below in self.layers[:layer]:
            x = self._layer(below, x, mask, seen_mask)
        above, S = self.layers[layer], memory.size(1)
        q, k, _ = above.attention.split(above.attention.qkv(above.attention_norm(x) if above.pre_norm else x))
        k = k.repeat_interleave(q.size(1) // k.size(1), 1)
        scores = (q @ k.transpose(2, 3)).float() / q.size(3) ** 0.5
        return scores.masked_fill(~mask, float("-inf")).softmax(3)[:, :, S:, :S]

    def start(self, seen: list[Tensor], seen_mask: Tensor, rows: int) -> PrefixState:
        """As in TransformerDecoder."""
        x, mask = self._source(seen[0], seen_mask)
        kept = []
        for layer in self.layers:
            x, key_values = layer.source(x, mask, seen_mask)
            kept.append(key_values)
        return PrefixState(torch.stack(kept), seen_mask, rows, self.most)

    def step(self, tokens: Tensor, state: PrefixState) -> Tensor:
        """As in TransformerDecoder."""
        state.begin()
        positions, lengths = state.positions.expand(-1, state.rows), state.mask[:, 0, 0].sum(1, keepdim=True)
        most = state.length + (state.mask.size(3) if self.continued else 0)
        return self._advance(self._target(tokens.view(-1, state.rows), positions, lengths, most), state)

    def flops(self, memory: Tensor, target: Tensor) -> int:
        """As in TransformerDecoder."""
        linear, tokens = sum(p.numel() for p in self.layers.parameters() if p.dim() == 2), memory + target
        pairs = len(self.layers) * self.config.heads * self.config.head * int((tokens * tokens).sum())
        return 2 * int(tokens.sum()) * linear + 4 * pairs
