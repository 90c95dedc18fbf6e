"""State of a decoder whose output layer reads the source: tensors of each source move together with its sentence.

Shapes: B sentences, S memory positions.
"""

from torch import Tensor, nn

from s2s.models.contract import DecoderState
from s2s.nn.slots import kept


class SourceState:
    """A DecoderState, and tensors of the source of each sentence.

    Args:
        inner: The state of the decoder.
        values: Tensors of the sources, [B, S, ...] each.
        mask: Bool [B, 1, 1, S], true at real positions.
    """

    def __init__(self, inner: DecoderState, values: tuple[Tensor, ...], mask: Tensor):
        self.inner, self.values, self.mask = inner, values, mask

    def empty(self, slots: int) -> "SourceState":
        """A state of the same kind with `slots` places for sentences, all free."""
        state = SourceState(self.inner.empty(slots), self.values, self.mask)
        state._keep(self.mask.new_zeros(0, dtype=int), slots)
        return state

    def reorder(self, parents: Tensor) -> None:
        """Row r continues row parents[r] of the same sentence."""
        self.inner.reorder(parents)

    def admit(self, slots: Tensor, other: "SourceState", which: Tensor) -> None:
        """Put sentences `which` of a state that `start` has just returned into the places `slots`."""
        self.inner.admit(slots, other.inner, which)
        more = other.mask.size(3) - self.mask.size(3)
        if more > 0:
            self._resize(more)
        pairs = zip((*self.values, self.mask[:, 0, 0]), (*other.values, other.mask[:, 0, 0]), strict=True)
        for own, new in pairs:
            own[slots] = 0
            own[slots, : new.size(1)] = new[which]

    def _resize(self, more: int) -> None:
        """Add `more` positions."""
        self.values = tuple(_longer(x, more) for x in self.values)
        self.mask = nn.functional.pad(self.mask, (0, more))

    def free(self, slots: Tensor) -> None:
        """Mark places as free."""
        self.inner.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep sentences `keep` as the first of `slots` places, and free the other places."""
        self.inner.release(keep, slots)
        self._keep(keep, slots)

    def _keep(self, keep: Tensor, slots: int) -> None:
        size = max(1, int(self.mask[keep].flatten(1).sum(1).amax())) if len(keep) else 1
        self.values = tuple(kept(x[:, :size], keep, slots) for x in self.values)
        self.mask = kept(self.mask[:, :, :, :size], keep, slots)
        self.mask[len(keep) :, :, :, 0] = True  # a free place needs one visible position: a softmax over none is NaN

    def rewind(self, counts: Tensor) -> None:
        """Drop the last counts[b] positions of each sentence b."""
        self.inner.rewind(counts)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.inner.nbytes + sum(x.nbytes for x in (*self.values, self.mask))


def _longer(x: Tensor, more: int) -> Tensor:
    """[B, S, ...] -> [B, S + more, ...], zeros at the end."""
    return nn.functional.pad(x, (0, 0) * (x.dim() - 2) + (0, more))
