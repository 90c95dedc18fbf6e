"""State of a decoder whose output reads the source: what the output keeps of each sentence goes where that goes.

Shapes: B sentences, S memory positions.
"""

from torch import Tensor, nn

from s2s.models.contract import DecoderState
from s2s.nn.slots import kept


class SourceState:
    """A DecoderState with tensors of each sentence's source beside it.

    Args:
        inner: Of the decoder alone.
        values: [B, S, ...] each.
        mask: Bool [B, 1, 1, S], true at real positions.
    """

    def __init__(self, inner: DecoderState, values: tuple[Tensor, ...], mask: Tensor):
        self.inner, self.values, self.mask = inner, values, mask

    def empty(self, slots: int) -> "SourceState":
        """A state like this one with places for so many sentences, all of them free."""
        state = SourceState(self.inner.empty(slots), self.values, self.mask)
        state._keep(self.mask.new_zeros(0, dtype=int), slots)
        return state

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r] of the same sentence."""
        self.inner.reorder(parents)

    def admit(self, slots: Tensor, other: "SourceState", which: Tensor) -> None:
        """Sentences `which` of another state, fresh from `start`, take these places."""
        self.inner.admit(slots, other.inner, which)
        more = other.mask.size(3) - self.mask.size(3)
        if more > 0:
            self._resize(more)
        tensors = zip((*self.values, self.mask[:, 0, 0]), (*other.values, other.mask[:, 0, 0]), strict=True)
        for mine, theirs in tensors:
            mine[slots] = 0
            mine[slots, : theirs.size(1)] = theirs[which]

    def _resize(self, more: int) -> None:
        """Have so many more positions."""
        self.values = tuple(_longer(x, more) for x in self.values)
        self.mask = nn.functional.pad(self.mask, (0, more))

    def free(self, slots: Tensor) -> None:
        """These places are free."""
        self.inner.free(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these sentences as the first of `slots` ones; the other places are free."""
        self.inner.release(keep, slots)
        self._keep(keep, slots)

    def _keep(self, keep: Tensor, slots: int) -> None:
        size = max(1, int(self.mask[keep].flatten(1).sum(1).amax())) if len(keep) else 1
        self.values = tuple(kept(x[:, :size], keep, slots) for x in self.values)
        self.mask = kept(self.mask[:, :, :, :size], keep, slots)
        self.mask[len(keep) :, :, :, 0] = True  # a free place sees something, whatever it is

    def rewind(self, counts: Tensor) -> None:
        """Each sentence takes back so many of its last positions."""
        self.inner.rewind(counts)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.inner.nbytes + sum(x.nbytes for x in (*self.values, self.mask))


def _longer(x: Tensor, more: int) -> Tensor:
    """[B, S, ...] -> [B, S + more, ...], zeros at the end."""
    return nn.functional.pad(x, (0, 0) * (x.dim() - 2) + (0, more))
