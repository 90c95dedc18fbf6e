"""State of a recurrent decoder: tensors of a fixed size that pass from step to step.

Shapes: B sentences, K rows a sentence, R = B*K, S source positions.
"""

import numpy as np
import torch
from torch import Tensor, nn

from s2s.nn.slots import kept


class CarriedState:
    """A DecoderState of two kinds of tensors: constants of each sentence, and a recurrent state of each row.

    Each sentence has its own position, so that a new sentence can replace one that is finished.

    Args:
        held: Constants of the sentences, each [B, S, ...].
        mask: Bool [B, S], true at real source positions.
        carried: State of the rows before their first step, each [R, ...]. A sentence that is admitted later starts with
            the state that it brings.
        rows: K.
        most: Number of learned positions; None: no limit.

    Attributes:
        held, mask, carried, rows: As above; each step replaces `carried`.
        positions: [B, 1] int64, number of finished steps of each sentence.
        length: Greater than every position.
    """

    def __init__(self, held: list[Tensor], mask: Tensor, carried: list[Tensor], rows: int, most: int | None = None):
        self.held, self.mask, self.carried, self.rows, self.most = held, mask, carried, rows, most
        self.steps = np.zeros(len(mask), np.int64)
        self.positions = torch.zeros(len(mask), 1, dtype=torch.int64, device=mask.device)

    @property
    def length(self) -> int:
        return int(self.steps.max()) + 1

    def empty(self, slots: int) -> "CarriedState":
        """A state of the same kind with `slots` places for sentences, all free."""
        state = type(self)([x[:0] for x in self.held], self.mask[:0], [x[:0] for x in self.carried], self.rows,
                           self.most)  # fmt: skip
        state.release(torch.arange(0, device=self.mask.device), slots)
        return state

    def begin(self) -> None:
        """Prepare a step. Places that are free or finished keep counting, but not past the last learned position."""
        if self.most is not None and self.steps.max() >= self.most:
            np.minimum(self.steps, self.most - 1, out=self.steps)
            self.positions.clamp_(max=self.most - 1)

    def advance(self, carried: list[Tensor]) -> None:
        """End a step; carried: the new state of the rows."""
        self.carried = carried
        self.steps += 1
        self.positions += 1

    def reorder(self, parents: Tensor) -> None:
        """Row r continues row parents[r]."""
        self.carried = [x.index_select(0, parents) for x in self.carried]

    def admit(self, slots: Tensor, other: "CarriedState", which: Tensor) -> None:
        """Put sentences `which` of a state that `start` has just returned into the places `slots`."""
        missing, spare = other.mask.size(1) - self.mask.size(1), self.mask.size(1) - other.mask.size(1)
        if missing > 0:
            self.held, self.mask = [_longer(x, missing) for x in self.held], _longer(self.mask, missing)
        for own, new in zip((*self.held, self.mask), (*other.held, other.mask), strict=True):
            own[slots] = _longer(new.index_select(0, which), max(0, spare))
        rows, chosen = self._rows(slots), self._rows(which)
        for own, new in zip(self.carried, other.carried, strict=True):
            own[rows] = new.index_select(0, chosen)
        self.free(slots)

    def _rows(self, sentences: Tensor) -> Tensor:
        return (sentences[:, None] * self.rows + torch.arange(self.rows, device=sentences.device)).flatten()

    def free(self, slots: Tensor) -> None:
        """Mark places as free, and set their positions to 0."""
        self.steps[slots.cpu().numpy()] = 0
        self.positions[slots] = 0

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep sentences `keep` as the first of `slots` places, and free the other places."""
        size = max(1, int(self.mask[keep].sum(1).amax())) if len(keep) else 1
        self.held = [kept(x[:, :size], keep, slots) for x in self.held]
        self.mask = kept(self.mask[:, :size], keep, slots)
        self.mask[len(keep) :, 0] = True  # a free place needs one visible position: a softmax over none is NaN
        self.carried = [kept(x, self._rows(keep), slots * self.rows) for x in self.carried]
        steps = self.steps[keep.cpu().numpy()]
        self.steps = np.append(steps, np.zeros(slots - len(steps), np.int64))
        self.positions = kept(self.positions, keep, slots)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (*self.held, self.mask, *self.carried))


def _longer(x: Tensor, more: int) -> Tensor:
    """[B, S, ...] -> [B, S + more, ...], zeros at the end."""
    return nn.functional.pad(x, (0, 0) * (x.dim() - 2) + (0, more)) if more else x
