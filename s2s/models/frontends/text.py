"""The base class of front-ends that compute on whole texts and not on each token separately.

Shapes: B rows, S tokens of a row, N examples, D width; S' states.
"""

import torch
from torch import Tensor, nn

from s2s.data.batch import Packing, Source
from s2s.data.spec import TokenSource
from s2s.errors import UserError
from s2s.models.contract import Shared, States
from s2s.nn.dropout import dropout
from s2s.nn.packed_rows import Examples
from s2s.nn.positions import PositionEmbedding


class TextFrontend(nn.Module):
    """Base class of text front-ends. A subclass defines `states`; positions and dropout follow.

    Packed rows are split into examples before `states`, so that no example sees another, and their states are packed
    again.

    Args:
        width: D.
        shared: Options that all parts of the model share.
        tokens: The embedding matrix, which the target side may share; None: no matrix.

    Attributes:
        stride: Number of tokens for each state; None: it depends on the text, and the subclass defines `most`.
        on_states: Prefixes of the names of modules that compute on states and not on tokens, for `flops`.
    """

    reads = TokenSource
    segmented = True
    stride: int | None = 1
    on_states: tuple[str, ...] = ()

    def __init__(self, width: int, shared: Shared, tokens: nn.Embedding | None):
        super().__init__()
        self.tokens, self.width, self.dropout = tokens, width, shared.embedding_dropout
        self.scale = tokens.embedding_dim**0.5 if tokens is not None and shared.scale_embeddings else 1.0
        self.positions = PositionEmbedding(shared.positions, width, shared.max_positions)

    def embed(self, ids: Tensor) -> Tensor:
        """Embedded tokens [B, S, width of the matrix], with variance 1 initially."""
        return self.tokens(ids) * self.scale

    def states(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The states of texts. Padding must not change any result.

        Args:
            ids: [B, S] int64, right-padded.
            lengths: [B] int64.

        Returns:
            States [B, S', D], right-padded, and their number in each row, [B] int64.
        """
        raise NotImplementedError

    def shortened(self, lengths):
        """Number of states for `lengths` tokens; an int or a tensor."""
        return -(-lengths // self.stride)

    def most(self, length: int) -> int:
        """Largest number of states of a source with `length` tokens."""
        return self.shortened(length)

    def forward(self, source: Source) -> States:
        """source: ids [B, S]. Returns States [B, S', D]."""
        if source.packing is None:
            return States(*self._placed(source.values, source.lengths))
        examples = Examples(*source.packing)
        ids = examples.rows(source.values[:, :, None]).squeeze(2)
        return packed(*self._placed(ids, examples.lengths), source.packing.segments[:, -1] + 1)

    def _placed(self, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.states(ids, lengths)
        return self.place(x), lengths

    def place(self, x: Tensor) -> Tensor:
        """Add positions to states [B, S', D], and apply dropout."""
        return dropout(self.positions(x), self.dropout, self.training)

    def flops(self, lengths: Tensor) -> int:
        """Floating-point operations of matrix products and convolutions; lengths: of the sources, [B] int64."""
        tokens, states = int(lengths.sum()), sum(map(self.most, lengths.tolist()))
        return 2 * sum(p.numel() * (states if name.startswith(self.on_states) else tokens)
                       for name, p in self.named_parameters() if p.dim() > 1 and not _is_table(name))  # fmt: skip


def real_of(ids: Tensor, lengths: Tensor) -> Tensor:
    """Bool [B, S, 1], true at real tokens; ids: [B, S], lengths: [B]."""
    return (torch.arange(ids.size(1), device=ids.device) < lengths[:, None])[:, :, None]


def odd(kernel: int) -> int:
    """Returns the kernel. Raises UserError if it is even."""
    if kernel % 2 == 0:
        raise UserError(f"model.frontend.kernel={kernel} must be odd, so that a token is in the middle")
    return kernel


def _is_table(name: str) -> bool:
    return any(word in ("tokens", "rows", "positions") for word in name.split("."))


def packed(x: Tensor, lengths: Tensor, counts: Tensor) -> States:
    """Pack the states of examples into rows.

    Args:
        x: [N, S', D], right-padded.
        lengths: [N] int64.
        counts: [B] int64, number of examples of each row.
    """
    row = torch.repeat_interleave(torch.arange(len(counts), device=x.device), counts)
    totals = torch.zeros_like(counts).index_add_(0, row, lengths)
    start = lengths.cumsum(0) - lengths - (totals.cumsum(0) - totals)[row]
    number = torch.arange(len(row), device=x.device) - (counts.cumsum(0) - counts)[row]
    size, place = int(totals.max()), torch.arange(x.size(1), device=x.device).expand(x.shape[:2])
    real = place < lengths[:, None]
    where = ((row * size + start)[:, None] + place)[real]
    values = x.new_zeros(len(counts) * size, x.size(2)).index_copy_(0, where, x[real])
    segments = (counts - 1)[:, None].repeat(1, size).flatten()
    segments[where] = number[:, None].expand_as(place)[real]
    positions = torch.zeros_like(segments).index_copy_(0, where, place[real])
    shape = len(counts), size
    return States(values.view(*shape, -1), totals, Packing(segments.view(shape), positions.view(shape)))
