"""The Transformer decoder, with or without cross-attention to a memory.

Shapes: B sentences, S memory positions, T target positions, K rows a sentence, R = B*K, D width, N layers, G key/value
heads, d head width.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from s2s.data.batch import Packing
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.stack import DecoderConfig, check_heads
from s2s.nn.attention import segment_mask
from s2s.nn.embedding import Embedding
from s2s.nn.layers import Layer
from s2s.nn.norms import norm_of
from s2s.nn.state import BlockState, TransformerState


class TransformerDecoder(nn.Module):
    """The Transformer decoder.

    Args:
        config: The size of the decoder.
        shared: Options that all parts of the model share.
        embedding: The target embedding.
        memory_width: D of the memory; None: no cross-attention.
        heads: Layers below the top, from 1, whose states predict the target too (`auxiliary_heads`). Each has a norm.

    Attributes:
        shares: Weight of each head in the logits, by layer; the top has the rest of 1.
        goes_alone: Whether the decoder works without a memory, as in a language model.

    Raises:
        UserError: attention heads that do not divide the width, auxiliary heads of layers that do not exist, or
            options of the relative position bias that do not fit together.
    """

    Config = DecoderConfig
    State = TransformerState
    segmented = True
    sees_shares = True  # attention adds a float mask of the memory to its logits
    goes_alone = True
    shares: Mapping[int, float | Tensor] = MappingProxyType({})

    def __init__(self, config: DecoderConfig, shared: Shared, embedding: Embedding, memory_width: int | None,
                 heads: list[int] = ()):  # fmt: skip
        super().__init__()
        check_heads("model.decoder", config, shared.positions)
        for number in heads:
            if number >= config.layers:
                raise UserError(f"model.auxiliary_heads={list(heads)}: layers from 1 to {config.layers - 1} can "
                                "have one")  # fmt: skip
        self.config, self.width, self.attends = config, config.width, memory_width is not None
        self.embedding, self.most = embedding, embedding.positions.most
        options = {**shared.layer(config), "causal": True, "memory_width": memory_width}
        self.layers = self._layers(config, options)
        self.norm = norm_of(shared.norm_type, config.width) if shared.norm == "pre" else nn.Identity()
        self.head_norms = nn.ModuleDict({str(number): norm_of(shared.norm_type, config.width) for number in heads})
        self.relative = shared.relative_bias(config.heads, causal=True)
        self.scale = config.width**-0.5 if shared.scale_output else None

    def _layers(self, config: DecoderConfig, options: dict[str, Any]) -> nn.ModuleList:
        """The layers; options: arguments of each."""
        return nn.ModuleList(Layer(**options) for _ in range(config.layers))

    @staticmethod
    def attending(config: DecoderConfig) -> int:
        """Number of layers that attend to the memory; the bridge makes one memory for each."""
        return config.layers

    @property
    def attention_shape(self) -> tuple[int, int]:
        """Numbers of layers and heads of `cross_attention`."""
        return self.config.layers, self.config.heads

    @property
    def heads(self) -> list[int]:
        """Layers below the top, from 1, whose states predict the target too."""
        return [int(number) for number in self.head_norms]

    def decode(self, seen: list[Tensor], seen_mask: Tensor | None, decoder_input: Tensor,
               packing: Packing | None = None) -> tuple[Tensor, dict[int, Tensor]]:  # fmt: skip
        """Teacher forcing.

        Args:
            seen: The memory states of each layer, [B, S, D] each; empty without cross-attention.
            seen_mask: Bool [B, 1, 1 or T, S], true at the positions that a target position may see.
            decoder_input: [B, T] int64, BOS first, right-padded.
            packing: Which example each position belongs to, where rows are packed.

        Returns:
            States for the output layer [B, T, D], and the states of each head, by layer.
        """
        segments, positions = packing or (None, None)
        mask = self._own_mask(decoder_input.size(1), segments, decoder_input.device)
        x, states = self.embedding(decoder_input, positions=positions), {}
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, mask, seen[number - 1], seen_mask) if layer.attends else layer(x, mask)
            if str(number) in self.head_norms:
                states[number] = self._scaled(self.head_norms[str(number)](x))
        return self._mixed(self._scaled(self.norm(x)), states), states

    def _own_mask(self, size: int, segments: Tensor | None, device: torch.device) -> Tensor | None:
        """The mask of self-attention over T positions: None, causal; bool [B, 1, T, T], where rows are packed; or float
        [1 or B, H, T, T], added to the logits. segments: [B, T], where rows are packed."""
        mask = None if segments is None else segment_mask(segments, segments).tril()
        if self.relative is None:
            return mask
        if mask is None:
            mask = torch.ones(1, 1, size, size, dtype=torch.bool, device=device).tril()
        return self.relative.masked(mask)

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.scale is None else x * self.scale

    def _mixed(self, top: Tensor, heads: dict[int, Tensor]) -> Tensor:
        """States for the output layer; top, heads: normalised states of the top and of each head, by layer."""
        shares = self.shares
        if not shares:
            return top
        return (1 - sum(shares.values())) * top + sum(share * heads[n] for n, share in shares.items())

    def cross_attention(self, seen: list[Tensor], seen_mask: Tensor, decoder_input: Tensor, layer: int) -> Tensor:
        """Cross-attention weights of a layer under teacher forcing, fp32 [B, H, T, S]; layer: from 0."""
        x, mask = self.embedding(decoder_input), self._own_mask(decoder_input.size(1), None, decoder_input.device)
        for below, memory in zip(self.layers[:layer], seen, strict=False):
            x = below(x, mask, memory, seen_mask) if below.attends else below(x, mask)
        return self.layers[layer].cross_attention(x, mask, seen[layer], seen_mask)

    def start(self, seen: list[Tensor], seen_mask: Tensor, rows: int) -> TransformerState:
        """The state before the first step, with `rows` rows for each sentence; other arguments as in `decode`."""
        return self.State(*self._start(seen, seen_mask), rows, self.most)

    def _start(self, seen: list[Tensor], seen_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of cross-attention, [N, 2, B, G, S, d], and their mask."""
        if self.attends:
            projected = [layer.cross.project(memory) for layer, memory in zip(self.layers, seen, strict=True)]
            return torch.stack(projected), seen_mask
        # One position for each sentence, which no layer reads.
        stack, weight, B = self.config, next(self.layers.parameters()), len(seen_mask)
        shape = len(self.layers), 2, B, stack.kv_heads or stack.heads, 1, stack.head
        return weight.new_zeros(shape), torch.ones(B, 1, 1, 1, dtype=torch.bool, device=weight.device)

    def step(self, tokens: Tensor, state: TransformerState) -> Tensor:
        """Advance every row by one token. tokens: [R] int64. Returns states for the output layer, [B, K, D]."""
        state.begin()
        positions = state.positions.expand(-1, state.rows)
        x = self.embedding(tokens.view(-1, state.rows), positions=positions, length=state.length)
        return self._advance(x, state)

    def _advance(self, x: Tensor, state: TransformerState) -> Tensor:
        """Run embedded tokens through the layers. Returns states for the output layer."""
        heads, shares = {}, self.shares
        if self.relative is not None:
            state.added = self.relative.step(state.queries(), state.length, state.seen)
        for n, layer in enumerate(self.layers):
            x = layer.step(x, state, n)
            if n + 1 in shares:
                heads[n + 1] = self._scaled(self.head_norms[str(n + 1)](x))
        state.advance()
        return self._mixed(self._scaled(self.norm(x)), heads)

    def start_blocks(self, seen: list[Tensor], seen_mask: Tensor) -> BlockState:
        """The state before the first step, for one hypothesis a sentence that advances by several positions at once."""
        return BlockState(*self._start(seen, seen_mask), 1, self.most)

    def step_block(self, tokens: Tensor, state: BlockState) -> Tensor:
        """Advance every sentence by T tokens; each token sees those before it. tokens: [B, T] int64. Returns states for
        the output layer, [B, T, D]."""
        state.begin(tokens.size(1))
        x = self.embedding(tokens, positions=state.places, length=state.length)
        return self._advance(x, state)

    def flops(self, memory: Tensor, target: Tensor) -> int:
        """Floating-point operations of the matrix products; memory, target: lengths, [B] int64 each. Causal attention
        counts as much as full attention."""
        S, T = int(memory.sum()), int(target.sum())
        linear = sum(p.numel() for p in self.layers.parameters() if p.dim() == 2)
        attending = [layer for layer in self.layers if layer.attends]
        over_memory = sum(layer.cross.key_value.weight.numel() for layer in attending)  # of keys and values, over S
        pairs = len(self.layers) * int((target * target).sum()) + len(attending) * int((target * memory).sum())
        return 2 * (S * over_memory + T * (linear - over_memory)) + 4 * self.config.heads * self.config.head * pairs
