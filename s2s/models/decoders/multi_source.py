"""A decoder that attends to each of several sources by itself: serial, parallel or hierarchical.

Paper: Libovický et al., "Input Combination Strategies for Multi-Source Transformer Decoder", WMT 2018,
https://arxiv.org/abs/1811.04716.

Each decoder layer has a cross-attention for each source, with queries of x, [B, T, D], and keys and values of the
source's own states. `serial`: one after the other, each with a norm and a residual connection of its own. `parallel`:
the same query to each, and the sum of the contexts is added to x. `hierarchical`: a second attention of each position
over the contexts, one for each source, whose queries are those of x. The fourth way, all sources in one softmax, is
`model.bridge=flat`. A source may be missing: an empty field, which has the state of its end alone.

Use: task=multi_source model.bridge=sources model.decoder=multi_source model.decoder.combination=serial

Left out: encoders of other kinds for further sources, such as pictures; uncertain: the order of the sources in
`serial`, which is that of the task here.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from s2s.config.schema import option
from s2s.errors import UserError
from s2s.models.contract import Shared
from s2s.models.decoders.transformer import TransformerDecoder
from s2s.models.stack import DecoderConfig
from s2s.nn.attention import CrossAttention, attend, heads_of, merged
from s2s.nn.embedding import Embedding
from s2s.nn.layers import Layer
from s2s.nn.norms import norm_of
from s2s.nn.state import TransformerState


@dataclasses.dataclass
class MultiSourceDecoderConfig(DecoderConfig):
    """Options of the decoder."""

    combination: str = option(
        "serial", "how the attentions to several sources are joined", ("serial", "parallel", "hierarchical")
    )
    type: str = option("multi_source", "component")


class MultiSourceLayer(Layer):
    """A Transformer layer with a cross-attention for each source.

    Args:
        combination: As in the options.
        sources: Their number, M.
        memory_width: D of a source's states, and 1 for its number.
        width, heads, kv_heads, ffn_width, options: As in Layer.
    """

    def __init__(self, combination: str, sources: int, width: int, heads: int, kv_heads: int, ffn_width: int, *,
                 memory_width: int, **options):  # fmt: skip
        super().__init__(width, heads, kv_heads, ffn_width, memory_width=memory_width - 1, **options)
        args = (options.get("attention_dropout", 0.0), options.get("log_length", False), options.get("head_width"),
                options.get("bias", True), options.get("scale_attention", True))  # fmt: skip
        crosses = (CrossAttention(width, memory_width - 1, heads, kv_heads, *args) for _ in range(sources - 1))
        self.combination, self.crosses = combination, nn.ModuleList([self.cross, *crosses])
        norms = sources - 1 if combination == "serial" else 0
        own = (norm_of(options.get("norm_type", "layer"), width) for _ in range(norms))
        self.cross_norms = nn.ModuleList([self.cross_norm, *own])
        self.over = CrossAttention(width, width, heads, kv_heads, *args) if combination == "hierarchical" else None
        del self.cross, self.cross_norm  # they are in the lists

    def decode(self, x: Tensor, mask: Tensor | None, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """As in Layer; memory: [B, S, D + 1]."""
        x = self._block(x, self.attention_norm, self.attention, mask)
        states, masks = memory[..., :-1], masks_of(memory[..., -1], memory_mask, len(self.crosses))
        keys = [cross.keys_and_values(states) for cross in self.crosses]
        x = self._joined(x, lambda i, y: self.crosses[i](y, keys[i], masks[i]))
        return self._block(x, self.feedforward_norm, self.feedforward)

    def step(self, x: Tensor, state, n: int) -> Tensor:
        """As in Layer. The state has the keys and values of M sources for each layer, and then the numbers."""
        x = self._block(x, self.attention_norm, self.attention.step, state, n)
        count = len(self.crosses)
        masks = masks_of(state.key_values[-1, 0, :, 0, :, 0], state.mask, count)

        def context(i: int, y: Tensor) -> Tensor:
            return self.crosses[i](y, state.key_values[n * count + i], masks[i])

        x = self._joined(x, context)
        return self._block(x, self.feedforward_norm, self.feedforward)

    def _joined(self, x: Tensor, context) -> Tensor:
        """x with the contexts of all sources; context(i, y): that of source i for queries of y, [B, T, D]."""
        count = len(self.crosses)
        if self.combination == "serial":
            for i, norm in enumerate(self.cross_norms):
                x = self._block(x, norm, lambda y, i=i: context(i, y))
            return x

        def all_sources(y: Tensor) -> Tensor:
            contexts = [context(i, y) for i in range(count)]
            return sum(contexts) if self.over is None else self._over(y, torch.stack(contexts, 2))

        return self._block(x, self.cross_norms[0], all_sources)

    def _over(self, y: Tensor, contexts: Tensor) -> Tensor:
        """Attention of each position over its contexts, [B, T, M, D]. Returns [B, T, D]."""
        B, T, M, _ = contexts.shape
        one, mask = y.reshape(B * T, 1, -1), torch.ones(1, 1, 1, M, dtype=torch.bool, device=y.device)
        keys, values = self.over.keys_and_values(contexts.flatten(0, 1))
        q = heads_of(self.over._query(one, mask), self.over.heads)
        weights = self.over.dropout if self.training else 0.0
        return self.over.output(merged(attend(q, keys, values, mask.expand(B * T, 1, 1, M), weights))).view(B, T, -1)

    def cross_attention(self, x: Tensor, mask: Tensor | None, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """As in Layer: of each source, divided by M, so that a row sums to 1."""
        x = self._block(x, self.attention_norm, self.attention, mask)
        states, masks = memory[..., :-1], masks_of(memory[..., -1], memory_mask, len(self.crosses))
        total: Any = 0
        for i, cross in enumerate(self.crosses):
            norm = self.cross_norms[i if self.combination == "serial" else 0]
            keys = cross.project(states)
            total = total + cross.weights(norm(x) if self.pre_norm else x, keys, masks[i]) / len(self.crosses)
            if self.combination == "serial":
                x = self._block(x, norm, cross, keys, masks[i])
        return total

    def outputs(self) -> list[nn.Linear]:
        """As in Layer."""
        return [self.attention.output, *(cross.output for cross in self.crosses), self.feedforward.outer]


def masks_of(numbers: Tensor, mask: Tensor, sources: int) -> list[Tensor]:
    """The mask of each source; numbers: [B, S]; mask: bool [B, 1, 1 or T, S], of all.

    A place without a position of a source, such as a free slot of a search, sees its first place: a softmax over
    nothing is NaN.
    """
    masks = [mask & (numbers.round() == number)[:, None, None] for number in range(sources)]
    first = torch.arange(mask.size(3), device=mask.device) == 0
    return [own | (first & ~own.any(3, keepdim=True)) for own in masks]


class MultiSourceState(TransformerState):
    """The state between steps: keys and values of M sources for each layer, and the numbers of sources. The layers
    attend to the sources by themselves."""

    cross = None  # type: ignore[assignment]  # so that nothing else takes its place


class MultiSourceDecoder(TransformerDecoder):
    """A decoder whose layers attend to each source. The arguments are those of TransformerDecoder."""

    Config, State = MultiSourceDecoderConfig, MultiSourceState
    segmented = numbers_sources = True

    def __init__(self, config: MultiSourceDecoderConfig, shared: Shared, embedding: Embedding,
                 memory_width: int | None, heads: list[int] = ()):  # fmt: skip
        if shared.sources < 2:
            raise UserError("model.decoder=multi_source: requires several sources, and the task has one")
        self.sources = shared.sources
        super().__init__(config, shared, embedding, memory_width, heads)

    def _layers(self, config: MultiSourceDecoderConfig, options: dict[str, Any]) -> nn.ModuleList:
        """As in TransformerDecoder."""
        return nn.ModuleList(
            MultiSourceLayer(config.combination, self.sources, **options) for _ in range(config.layers)
        )

    def _start(self, seen: list[Tensor], seen_mask: Tensor) -> tuple[Tensor, Tensor]:
        """As in TransformerDecoder: M entries for each layer, and one of the numbers of sources."""
        projected = [cross.project(memory[..., :-1]) for layer, memory in zip(self.layers, seen, strict=True)
                     for cross in layer.crosses]  # fmt: skip
        numbers = seen[0][..., -1][None, :, None, :, None].to(projected[0].dtype).expand_as(projected[0])
        return torch.stack([*projected, numbers]), seen_mask

    def flops(self, memory: Tensor, target: Tensor) -> int:
        """As in TransformerDecoder; memory: positions of all sources together."""
        S, T = int(memory.sum()), int(target.sum())
        linear = sum(p.numel() for p in self.layers.parameters() if p.dim() == 2)
        over = sum(cross.key_value.weight.numel() for layer in self.layers for cross in layer.crosses)
        pairs = len(self.layers) * int((target * target).sum() + (target * memory).sum())
        return 2 * (S * over // self.sources + T * (linear - over)) + 4 * self.config.heads * self.config.head * pairs
