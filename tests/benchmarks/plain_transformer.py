"""A plain Transformer in fairseq's manner, which ours is measured beside; it takes the weights of one of ours.

Separate query, key and value projections; time-major states; masks and positions made from the padding; all logits of
a batch at once; in decoding, keys and values that grow by concatenation and cross-attention keys and values for every
row, as in fairseq up to 0.10 (later ones share these between the beams of a sentence). Attention over whole sequences
is `torch.nn.functional.multi_head_attention_forward`, as it is there. Pre-norm, ReLU, sinusoidal positions, one matrix
for all embeddings.

Shapes: B sentences, S and T positions, R rows, D width, H heads, d head width, V vocabulary.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from s2s.models.transformer import Transformer
from s2s.nn.layers import Layer as OurLayer
from s2s.nn.positions import sinusoidal
from s2s.text.vocabulary import PAD


class Attention(nn.Module):
    """Attention with four projections."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, memory: Tensor, padding: Tensor | None, mask: Tensor | None, need_weights: bool):
        """x: [T, B, D]; memory: [S, B, D]; padding: bool [B, S], true at padding; mask: bool [T, S], true: not seen."""
        return functional.multi_head_attention_forward(
            x, memory, memory, x.size(2), self.heads, None,
            torch.cat([self.query.bias, self.key.bias, self.value.bias]), None, None, False, 0.0,
            self.output.weight, self.output.bias, self.training, padding, need_weights, mask,
            use_separate_proj_weight=True, q_proj_weight=self.query.weight, k_proj_weight=self.key.weight,
            v_proj_weight=self.value.weight,
        )[0]  # fmt: skip

    def _heads(self, x: Tensor) -> Tensor:
        """[T, R, D] -> [R*H, T, d]"""
        T, R, D = x.shape
        return x.contiguous().view(T, R * self.heads, D // self.heads).transpose(0, 1)

    def step(self, x: Tensor, cache: dict[str, Tensor], memory: Tensor | None = None, padding: Tensor | None = None):
        """x: [1, R, D]; cache: "key" and "value" [R, H, S, d], replaced; memory: [S, R, D] in cross-attention."""
        _, R, D = x.shape
        query = self._heads(self.query(x) * (D // self.heads) ** -0.5)
        if memory is not None and cache:
            key, value = (cache[name].view(R * self.heads, -1, D // self.heads) for name in ("key", "value"))
        else:
            seen = x if memory is None else memory
            key, value = self._heads(self.key(seen)), self._heads(self.value(seen))
            if cache:
                key = torch.cat([cache["key"].view(R * self.heads, -1, D // self.heads), key], dim=1)
                value = torch.cat([cache["value"].view(R * self.heads, -1, D // self.heads), value], dim=1)
        for name, tensor in (("key", key), ("value", value)):
            cache[name] = tensor.contiguous().view(R, self.heads, -1, D // self.heads)
        weights = torch.bmm(query, key.transpose(1, 2))
        if padding is not None:
            weights = weights.view(R, self.heads, 1, -1).masked_fill(padding[:, None, None], float("-inf"))
            weights = weights.view(R * self.heads, 1, -1)
        weights = weights.float().softmax(dim=-1).type_as(weights)
        return self.output(torch.bmm(weights, value).transpose(0, 1).contiguous().view(1, R, D))


class Layer(nn.Module):
    """An encoder or decoder layer with the weights of one of ours."""

    def __init__(self, ours: OurLayer, width: int, heads: int, inner: int, causal: bool):
        super().__init__()
        self.dropout = ours.dropout
        self.attention, self.attention_norm = Attention(width, heads), nn.LayerNorm(width)
        self.cross, self.cross_norm = (Attention(width, heads), nn.LayerNorm(width)) if causal else (None, None)
        self.inner, self.outer, self.norm = nn.Linear(width, inner), nn.Linear(inner, width), nn.LayerNorm(width)
        fused = [ours.attention.qkv.weight.chunk(3), ours.attention.qkv.bias.chunk(3)]
        _copy((self.attention.query, self.attention.key, self.attention.value), *fused)
        pairs = [(self.attention.output, ours.attention.output), (self.attention_norm, ours.attention_norm),
                 (self.inner, ours.feedforward.inner), (self.outer, ours.feedforward.outer),
                 (self.norm, ours.feedforward_norm)]  # fmt: skip
        if causal:
            _copy((self.cross.key, self.cross.value), ours.cross.key_value.weight.chunk(2),
                  ours.cross.key_value.bias.chunk(2))  # fmt: skip
            pairs += [(self.cross.query, ours.cross.query), (self.cross.output, ours.cross.output),
                      (self.cross_norm, ours.cross_norm)]  # fmt: skip
        for mine, theirs in pairs:
            mine.load_state_dict(theirs.state_dict())

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout, self.training)

    def forward(self, x, padding, memory=None, memory_padding=None, mask=None, need_weights=False) -> Tensor:
        """x: [T, B, D]; padding: bool [B, T] or None; memory: [S, B, D] with memory_padding [B, S]; mask: [T, T]."""
        y = self.attention_norm(x)
        x = x + self._drop(self.attention(y, y, padding, mask, False))
        if self.cross is not None:
            x = x + self._drop(self.cross(self.cross_norm(x), memory, memory_padding, None, need_weights))
        return x + self._drop(self.outer(functional.relu(self.inner(self.norm(x)))))

    def step(self, x: Tensor, caches: tuple[dict, dict], memory: Tensor, padding: Tensor | None) -> Tensor:
        """x: [1, R, D]; caches: of self- and of cross-attention; memory: [S, R, D]; padding: bool [R, S]."""
        x = x + self.attention.step(self.attention_norm(x), caches[0])
        x = x + self.cross.step(self.cross_norm(x), caches[1], memory, padding)
        return x + self.outer(functional.relu(self.inner(self.norm(x))))


class PlainTransformer(nn.Module):
    """The same function as `ours`, with weights of its own that start the same."""

    def __init__(self, ours: Transformer):
        super().__init__()
        width, heads = ours.config.encoder.width, ours.config.encoder.heads
        self.tokens = nn.Embedding.from_pretrained(ours.output.weight.detach().clone(), freeze=False)
        self.scale, self.dropout = width**0.5, ours.config.dropout
        table = torch.cat([torch.zeros(1, width), sinusoidal(torch.arange(1024), width)])  # row 0 is for padding
        self.register_buffer("positions", table, persistent=False)
        sizes = width, heads, ours.config.encoder.ffn_width
        self.encoder = nn.ModuleList(Layer(layer, *sizes, causal=False) for layer in ours.encoder.layers)
        self.decoder = nn.ModuleList(Layer(layer, *sizes, causal=True) for layer in ours.decoder.layers)
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.encoder_norm.load_state_dict(ours.encoder.norm.state_dict())
        self.decoder_norm.load_state_dict(ours.decoder.norm.state_dict())

    def _embed(self, ids: Tensor, last: bool = False) -> Tensor:
        """ids: [B, T]. Returns [T, B, D], of the last position only if so asked."""
        real = ids.ne(PAD).int()
        positions = (torch.cumsum(real, dim=1) * real).long()
        if last:
            ids, positions = ids[:, -1:], positions[:, -1:]
        added = self.positions.index_select(0, positions.reshape(-1)).view(*ids.shape, -1)
        x = self.scale * self.tokens(ids) + added
        return functional.dropout(x, self.dropout, self.training).transpose(0, 1)

    def encode(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """ids: [B, S]. Returns states [S, B, D] and the padding, bool [B, S] (None where there is none)."""
        padding = ids.eq(PAD)
        padding = padding if padding.any() else None
        x = self._embed(ids)
        if padding is not None:
            x = x * (1 - padding.transpose(0, 1)[:, :, None].type_as(x))
        for layer in self.encoder:
            x = layer(x, padding)
        return self.encoder_norm(x), padding

    def forward(self, source: Tensor, decoder_input: Tensor) -> Tensor:
        """source: [B, S]; decoder_input: [B, T]. Returns logits [B, T, V]."""
        memory, memory_padding = self.encode(source)
        padding = decoder_input.eq(PAD)
        padding = padding if padding.any() else None
        T = decoder_input.size(1)
        mask = torch.ones(T, T, dtype=torch.bool, device=source.device).triu(1)
        x = self._embed(decoder_input)
        for number, layer in enumerate(self.decoder, 1):  # fairseq asks the last layer for its attention weights
            x = layer(x, padding, memory, memory_padding, mask, need_weights=number == len(self.decoder))
        return functional.linear(self.decoder_norm(x).transpose(0, 1), self.tokens.weight)


class PlainState:
    """Encoder states and caches of R rows."""

    def __init__(self, model: PlainTransformer, source: Tensor, rows: int):
        """source: [B, S], each sentence for `rows` rows."""
        self.model = model
        self.memory, self.padding = model.encode(source)
        self.caches: list[tuple[dict, dict]] = [({}, {}) for _ in model.decoder]
        self._reorder_memory(torch.arange(len(source), device=source.device).repeat_interleave(rows))

    def step(self, tokens: Tensor) -> Tensor:
        """tokens: [R, t], all so far. Returns logits [R, V] of the next one."""
        x = self.model._embed(tokens, last=True)
        for layer, caches in zip(self.model.decoder, self.caches, strict=True):
            x = layer.step(x, caches, self.memory, self.padding)
        return functional.linear(self.model.decoder_norm(x)[0], self.model.tokens.weight)

    def reorder(self, order: Tensor) -> None:
        """Row r goes on from row order[r]; fewer rows than before: some sentences have left."""
        self._reorder_memory(order)
        for own, cross in self.caches:
            for cache in (own, cross):
                if cache is cross and len(cache["key"]) == len(order):
                    continue  # a row only ever takes the place of a row of its sentence
                for name, tensor in cache.items():
                    cache[name] = tensor.index_select(0, order)

    def _reorder_memory(self, order: Tensor) -> None:
        self.memory = self.memory.index_select(1, order)
        self.padding = None if self.padding is None else self.padding.index_select(0, order)


@torch.no_grad()
def _copy(layers: tuple[nn.Linear, ...], weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> None:
    for layer, weight, bias in zip(layers, weights, biases, strict=True):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
