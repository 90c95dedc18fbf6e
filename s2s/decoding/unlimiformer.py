"""Unlimiformer: sources of any length, encoded in chunks, of which each attention head reads the best k positions.

Paper: Bertsch et al., "Unlimiformer: Long-Range Transformers with Unlimited Length Input", NeurIPS 2023,
https://arxiv.org/abs/2305.01625.

A trained encoder-decoder is used without new weights. A source of S tokens, more than the chunk size, is encoded in
overlapping chunks of that size. Each position is kept from the chunk in whose middle it is, so that the memory is
[B, S, D] in time linear in S, and `model.max_positions` limits a chunk and not the source. In every step, each head of
each layer's cross-attention takes the k keys with the greatest logits, and its softmax is over these only. The search
for them is exact. With k >= S, attention is as without the option.

Use: `decode.encoder_chunk=512 decode.cross_attention_k=512`; for a model that was trained on short sources also
`decode.max_length_a` and `decode.max_length_b`, which depend on the length of the source

Left out: an index of approximate neighbours; training with retrieval. The paper keeps one index of encoder states for
all layers and heads, since (h_d W_q)(h_e W_k)^T = (h_d W_q W_k^T) h_e^T. Here each layer keeps its projected keys and
values as ever: a step costs H times less (H heads), and the state of a search, its kernels apart, stays as it is; but
memory grows with the number of layers. The paper's code keeps the margins of the last chunk differently, because that
chunk overlaps more; here positions always change from one chunk to the next in the middle of their overlap.
"""

import copy
import types
from itertools import pairwise

import torch
from torch import Tensor, nn

from s2s.data.batch import Source
from s2s.decoding.times import spans
from s2s.errors import UserError
from s2s.models.contract import Memory
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.models.stack import LayeredEncoder
from s2s.nn.attention import CrossAttention, attend, heads_of, length_mask, merged
from s2s.nn.log_length import log_length
from s2s.nn.state import TransformerState


class TopKCrossAttention(CrossAttention):
    """Cross-attention of each head to the `count` keys with the greatest logits.

    `top_k` makes it of a CrossAttention, whose weights it shares.
    """

    count: int

    def forward(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """As in CrossAttention."""
        q = heads_of(self._query(x, mask), self.heads)
        return self.output(merged(top_k_attend(q, key_value[0], key_value[1], mask, self.count)))

    def weights(self, x: Tensor, key_value: Tensor, mask: Tensor) -> Tensor:
        """As in CrossAttention: [B, H, T, S], 0 at positions that a head does not take."""
        logits = _logits(heads_of(self._query(x, mask), self.heads), key_value[0], mask).flatten(1, 2).float()
        values, places = logits.topk(min(self.count, logits.size(-1)))
        return torch.zeros_like(logits).scatter(-1, places, values.softmax(-1))

    def step(self, x: Tensor, state: TransformerState, n: int) -> Tensor:
        """As in CrossAttention."""
        return self(x, state.key_values[n], state.mask)

    def _query(self, x: Tensor, mask: Tensor) -> Tensor:
        q = self.query(x) if self.scale is None else self.query(x) * self.scale
        seen = mask.sum(-1, keepdim=True).clamp(max=self.count)
        return log_length(q[:, None], seen)[:, 0] if self.log_length else q


def _logits(q: Tensor, k: Tensor, mask: Tensor) -> Tensor:
    """Logits [B, G, H/G, T, S] of queries [B, H, T, d] and keys [B, G, S, d]; mask: bool [B, 1, 1 or T, S]."""
    G, T = k.size(1), q.size(2)
    logits = q.unflatten(1, (G, -1)).flatten(2, 3) @ k.transpose(2, 3) / k.size(3) ** 0.5
    return logits.unflatten(2, (-1, T)).masked_fill(~mask[:, :, None], float("-inf"))


def top_k_attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, count: int) -> Tensor:
    """Softmax attention of each query to the `count` keys with the greatest logits.

    Args:
        q: [B, H, T, d].
        k, v: [B, G, S, d].
        mask: Bool [B, 1, 1 or T, S].
        count: k.

    Returns:
        [B, H, T, d]
    """
    if count >= k.size(2):
        return attend(q, k, v, mask.expand(-1, -1, q.size(2), -1))
    logits, places = _logits(q, k, mask).topk(count)  # [B, G, H/G, T, k]
    rows = places.flatten(2)[..., None].expand(-1, -1, -1, v.size(3))
    values = v.gather(2, rows).view(*places.shape, -1)
    return (logits.softmax(-1)[..., None, :] @ values).squeeze(-2).flatten(1, 2)


def top_k(model: EncoderDecoder, count: int) -> EncoderDecoder:
    """A copy of a model whose cross-attention takes `count` keys. The weights are shared.

    Args:
        model: Prepared for decoding, without compiled steps.
        count: k.

    Raises:
        UserError: the decoder has no cross-attention of this kind.
    """
    state, modules = getattr(model.decoder, "State", None), model.decoder.modules() if model.has_decoder else ()
    kinds = {type(module) for module in modules if isinstance(module, CrossAttention)}
    if kinds != {CrossAttention} or getattr(state, "cross", None) is not TransformerState.cross:
        raise UserError(f"decode.cross_attention_k={count}: the model has no decoder with a Transformer's "
                        "cross-attention")  # fmt: skip
    return model.light(decoder=_replaced(model.decoder, count))


def _replaced(module: nn.Module, count: int) -> nn.Module:
    """A copy of a module in which each CrossAttention takes `count` keys."""
    light = copy.copy(module)
    light._modules = {name: child and _replaced(child, count) for name, child in module._modules.items()}
    if isinstance(wrapped := vars(module).get("forward"), types.MethodType):  # bound to `module` (training/wrapping.py)
        light.forward = types.MethodType(wrapped.__func__, light)
    if type(module) is CrossAttention:
        light.__class__, light.count = TopKCrossAttention, count
    return light


def chunked(model: EncoderDecoder, size: int, overlap: int | None) -> EncoderDecoder:
    """A copy of a model that encodes long sources in chunks. The weights are shared.

    Args:
        model: Prepared for decoding.
        size: Tokens of a chunk, EOS included.
        overlap: Tokens that neighbouring chunks share; None: half of them.

    Raises:
        UserError: the model has no encoder of layers with one state for each token, or not so many positions.
    """
    said = f"decode.encoder_chunk={size}"
    if model.max_length is not None and size > model.max_length:
        raise UserError(f"{said}: must be at most model.max_positions={model.max_length}")
    for number in range(1 + len(model.more_encoders)):
        encoder = model._readers(number)[1]
        if not isinstance(encoder, LayeredEncoder) or getattr(encoder, "deletes", False):
            raise UserError(f"{said}: the model has no encoder of layers that keeps all positions")
    other, shared = copy.copy(model), size // 2 if overlap is None else overlap
    other._encode = lambda source, number: _encoded(model, source, number, size, shared)
    return other


def _encoded(model: EncoderDecoder, source: Source, number: int, size: int, overlap: int) -> Memory:
    """The memory of sources, in chunks where they are longer than one."""
    if source.values.is_floating_point():
        raise UserError(f"decode.encoder_chunk={size}: requires a source of tokens; decode.chunk_seconds is for "
                        "recordings")  # fmt: skip
    S = source.values.size(1)
    if size >= S:
        return _checked(model._encode(source, number), source, size)
    chunks, kept = cut(source.lengths.tolist(), size, overlap)
    rows, first, last = torch.tensor(chunks, device=source.values.device).unbind(1)
    places = (first[:, None] + torch.arange(size, device=rows.device)).clamp(max=S - 1)
    tags = {name: tag[rows] for name, tag in source.tags.items()}
    short = Source(source.values[rows[:, None], places], last - first, tags=tags)
    memory = _checked(model._encode(short, number), short, size)
    index = nn.utils.rnn.pad_sequence([torch.tensor(row, device=rows.device) for row in kept], batch_first=True)
    auxiliary = {name: memory.auxiliary[name] for name in ("embedded", "tokens") if name in memory.auxiliary}
    auxiliary = {name: x.flatten(0, 1)[index] for name, x in auxiliary.items()}
    states = [x.flatten(0, 1)[index] for x in memory.states]
    return Memory(states, source.lengths, length_mask(source.lengths, index.size(1)), auxiliary=auxiliary)


def _checked(memory: Memory, source: Source, size: int) -> Memory:
    """The memory, if it has one state for each token. Raises UserError."""
    if memory.top.size(1) != source.values.size(1) or not torch.equal(memory.lengths, source.lengths):
        raise UserError(f"decode.encoder_chunk={size}: requires a model with one state for each token of the source")
    return memory


def cut(lengths: list[int], size: int, overlap: int) -> tuple[list[tuple[int, int, int]], list[list[int]]]:
    """Chunks of sources.

    Args:
        lengths: Tokens of each source.
        size: Tokens of a chunk.
        overlap: Tokens that neighbouring chunks share, less than `size`.

    Returns:
        Of each chunk its source, its first token and the token after its last one; and of each source the places of its
        tokens in the chunks, each chunk being `size` places.
    """
    chunks, kept = [], []
    for row, length in enumerate(lengths):
        parts = spans(length, size, overlap)
        borders = [0, *((left[1] + right[0]) // 2 for left, right in pairwise(parts)), length]
        row_places: list[int] = []
        for (first, last), (start, end) in zip(parts, pairwise(borders), strict=True):
            place = len(chunks) * size - first
            row_places += range(place + start, place + end)
            chunks.append((row, first, last))
        kept.append(row_places)
    return chunks, kept
