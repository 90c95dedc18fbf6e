"""State of a decoder that carries tensors of a fixed size from step to step.

Shapes: B sentences, K rows a sentence, R = B*K, S source positions.
"""

import numpy as np
import torch
from torch import Tensor, nn

from s2s.nn.slots import kept


class CarriedState:
    """What a step reads of each sentence, and what it carries on of each row. It has the verbs of a DecoderState.

    Every sentence has its own position, so that one can take the place of another.

    Args:
        held: Of the sentences, each [B, S, ...].
        mask: Bool [B, S], true at real source positions.
        carried: Of the rows before their first step, each [R, ...]; a sentence that comes later has zeros.
        rows: K.
        most: The learned positions that there are; None: no bound.

    Attributes:
        held, mask, carried, rows: As above; a step puts new tensors into `carried`.
        positions: [B, 1] int64, steps done of each sentence.
        length: More than any of them.
    """

    def __init__(self, held: list[Tensor], mask: Tensor, carried: list[Tensor], rows: int, most: int | None = None):
        self.held, self.mask, self.carried, self.rows, self.most = held, mask, carried, rows, most
        self.steps = np.zeros(len(mask), np.int64)
        self.positions = torch.zeros(len(mask), 1, dtype=torch.int64, device=mask.device)

    @property
    def length(self) -> int:
        return int(self.steps.max()) + 1

    def empty(self, slots: int) -> "CarriedState":
        """A state like this one with places for so many sentences, all of them free."""
        state = type(self)([x[:0] for x in self.held], self.mask[:0], [x[:0] for x in self.carried], self.rows,
                           self.most)  # fmt: skip
        state.release(torch.arange(0, device=self.mask.device), slots)
        return state

    def begin(self) -> None:
        """A place that is free, or whose sentence is done, counts on, but not past the last learned position."""
        if self.most is not None and self.steps.max() >= self.most:
            np.minimum(self.steps, self.most - 1, out=self.steps)
            self.positions.clamp_(max=self.most - 1)

    def advance(self, carried: list[Tensor]) -> None:
        """A position is done, and this is what is carried on."""
        self.carried = carried
        self.steps += 1
        self.positions += 1

    def reorder(self, parents: Tensor) -> None:
        """Row r goes on from row parents[r]."""
        self.carried = [x.index_select(0, parents) for x in self.carried]

    def admit(self, slots: Tensor, other: "CarriedState", which: Tensor) -> None:
        """Sentences `which` of another state, fresh from `start`, take these places."""
        missing, spare = other.mask.size(1) - self.mask.size(1), self.mask.size(1) - other.mask.size(1)
        if missing > 0:
            self.held, self.mask = [_longer(x, missing) for x in self.held], _longer(self.mask, missing)
        for mine, theirs in zip((*self.held, self.mask), (*other.held, other.mask), strict=True):
            mine[slots] = _longer(theirs.index_select(0, which), max(0, spare))
        rows, chosen = self._rows(slots), self._rows(which)
        for mine, theirs in zip(self.carried, other.carried, strict=True):
            mine[rows] = theirs.index_select(0, chosen)
        self.free(slots)

    def _rows(self, sentences: Tensor) -> Tensor:
        return (sentences[:, None] * self.rows + torch.arange(self.rows, device=sentences.device)).flatten()

    def free(self, slots: Tensor) -> None:
        """These places are free, and begin anew."""
        self.steps[slots.cpu().numpy()] = 0
        self.positions[slots] = 0

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these sentences as the first of `slots` ones; the other places are free."""
        size = max(1, int(self.mask[keep].sum(1).amax())) if len(keep) else 1
        self.held = [kept(x[:, :size], keep, slots) for x in self.held]
        self.mask = kept(self.mask[:, :size], keep, slots)
        self.mask[len(keep) :, 0] = True  # a free place sees something, whatever it is
        self.carried = [kept(x, self._rows(keep), slots * self.rows) for x in self.carried]
        steps = self.steps[keep.cpu().numpy()]
        self.steps = np.append(steps, np.zeros(slots - len(steps), np.int64))
        self.positions = kept(self.positions, keep, slots)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.nbytes for tensor in (*self.held, self.mask, *self.carried))


def _longer(x: Tensor, more: int) -> Tensor:
    """[B, S, ...] with so many more positions, of zeros."""
    return nn.functional.pad(x, (0, 0) * (x.dim() - 2) + (0, more)) if more else x
