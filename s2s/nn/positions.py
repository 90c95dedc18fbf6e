"""Positions: sinusoidal and learned embeddings, added to the input, and rotary embeddings of queries and keys."""

import math

import torch
from torch import Tensor, nn

from s2s.errors import UserError

OF_ATTENTION = ("rotary", "relative_bias")  # positions that attention sees, and embeddings do not


SINUSOIDAL = ("sinusoidal", "sinusoidal_fairseq", "sinusoidal_interleaved")


def sinusoidal(positions: Tensor, width: int, kind: str = "sinusoidal") -> Tensor:
    """Sinusoidal position embeddings (Vaswani et al. 2017): sines in the first half, cosines in the second.

    Args:
        positions: [T], any integer type.
        width: D.
        kind: One of SINUSOIDAL. `sinusoidal_fairseq`: as fairseq has them; the slowest angle has a period of 10000,
            and the first position is 2. `sinusoidal_interleaved`: as OpenNMT and JoeyNMT have them; each sine is
            followed by its cosine.

    Returns:
        [T, D] fp32; row t is sin(t / 10000^(2j/D)) for j < D/2, then the cosines. fairseq's are
        sin((t + 2) / 10000^(j/(D/2 - 1))).
    """
    fairseq = kind == "sinusoidal_fairseq"
    half = width // 2
    slowest = max(half - 1, 1) if fairseq else half
    positions = positions + 2 if fairseq else positions
    frequencies = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000.0) / slowest))
    angles = positions.float()[:, None] * frequencies
    if kind == "sinusoidal_interleaved":
        return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class PositionEmbedding(nn.Module):
    """Adds position embeddings to token embeddings.

    Args:
        kind: One of SINUSOIDAL, `learned`, `none`, or one of OF_ATTENTION (nothing is added).
        width: D.
        max_positions: The longest sequence, for learned embeddings only.

    Attributes:
        most: `max_positions` of learned embeddings; None for the other kinds.
    """

    def __init__(self, kind: str, width: int, max_positions: int):
        super().__init__()
        self.kind, self.width, self.most = kind, width, max_positions if kind == "learned" else None
        if kind == "learned":
            self.weight = nn.Parameter(torch.empty(max_positions, width).normal_(std=width**-0.5))
        elif kind not in OF_ATTENTION:
            self.register_buffer("table", self._computed(512), persistent=False)

    def _computed(self, length: int, device: torch.device | None = None) -> Tensor:
        """The fixed embeddings of `length` positions, [T, D] fp32: sinusoids, or zeros with `none`."""
        if self.kind == "none":
            return torch.zeros(length, self.width, device=device)
        return sinusoidal(torch.arange(length, device=device), self.width, self.kind)

    def forward(self, x: Tensor, positions: Tensor | None = None, length: int | None = None) -> Tensor:
        """Add the embedding of each token's position.

        Args:
            x: [B, T, D] token embeddings.
            positions: [B, T] int64; None: 0, 1 ... in every row.
            length: Greater than every position; None: T.

        Returns:
            [B, T, D]

        Raises:
            UserError: a sequence longer than the learned table.
        """
        if self.kind == "none" or self.kind in OF_ATTENTION:
            return x
        end = x.size(1) if length is None else length
        if self.kind == "learned" and end > len(self.weight) and positions is not None:
            end = int(positions.max()) + 1  # a packed row may be longer than each of its examples
        table = self.table_of(end)
        added = table[:end] if positions is None else nn.functional.embedding(positions, table)
        return x + added.to(x.dtype)

    def table_of(self, length: int) -> Tensor:
        """The embeddings of at least `length` positions, [T, D]. Raises UserError: more than the learned positions."""
        if self.kind == "learned":
            if length > len(self.weight):
                raise UserError(f"a sequence of {length} tokens is over model.max_positions={len(self.weight)}")
            return self.weight
        table = self.table
        if length > len(table):
            table = self._computed(1 << (length - 1).bit_length(), table.device).to(table.dtype)
            self.table = table  # another thread may put its own here, even a shorter one
        return table


def turns(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles of rotary positions, each [..., d/2] fp32; positions: [...]; width: d."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=positions.device) * (-math.log(10000.0) / half))
    angles = positions[..., None] * frequencies
    return angles.cos(), angles.sin()


_tables: dict[tuple, tuple[Tensor, Tensor]] = {}  # (device, d, dtype) -> cosines and sines of positions 0, 1 ...


def _table(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the first positions, each [length, d/2], in the dtype and on the device of `like` [..., d].
    They are computed once for all layers and calls."""
    width, device = like.size(-1), like.device
    if torch.compiler.is_compiling():
        cos, sin = turns(torch.arange(length, device=device), width)
        return cos.to(like.dtype), sin.to(like.dtype)
    key = device, width, like.dtype
    table = _tables.get(key)
    if table is None or len(table[0]) < length:
        with torch.inference_mode(False), torch.no_grad():  # a training may use it after a search
            cos, sin = turns(torch.arange(max(512, 1 << (length - 1).bit_length()), device=device), width)
            table = _tables[key] = cos.to(like.dtype), sin.to(like.dtype)
    return table[0][:length], table[1][:length]


def _turns_of(positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions [B, T], each [B, 1, T, d/2], as `_table`. They stay with the tensor of positions
    for the layers that follow, so nobody may change it."""
    if torch.compiler.is_compiling():
        return tuple(angle.to(like.dtype) for angle in turns(positions[:, None], like.size(-1)))  # type: ignore[return-value]
    key, kept = (like.size(-1), like.dtype), positions.__dict__.setdefault("turns", {})
    if key not in kept:
        kept[key] = tuple(angle.to(like.dtype) for angle in turns(positions[:, None], like.size(-1)))
    return kept[key]


def rotate(x: Tensor, positions: Tensor | None = None) -> Tensor:
    """Rotary position embedding (Su et al. 2021), half-split form: components j and j + d/2 rotate together.

    Attention depends only on the distance between query and key, so packed rows need no positions of their own.

    Args:
        x: [B, H, T, d] queries or keys.
        positions: [B, T] int64, which must not be changed afterwards; None: 0, 1 ...
    """
    cos, sin = _table(x.size(2), x) if positions is None else _turns_of(positions, x)
    return _Rotation.apply(x, cos, sin) if x.requires_grad else _rotated(x, cos, sin)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)


class _Rotation(torch.autograd.Function):
    """A rotation, whose gradient is rotated back."""

    @staticmethod
    def forward(ctx, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        cos, sin = ctx.saved_tensors
        left, right = gradient.chunk(2, dim=-1)
        return torch.cat([left * cos + right * sin, right * cos - left * sin], dim=-1), None, None
