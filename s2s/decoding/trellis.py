"""Back-pointers of a search, which are followed when a sentence is finished.

Shapes: T steps kept, B slots, K rows per slot, n hypotheses of a sentence, s finished slots.
"""

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.search.choice import Choice
from s2s.nn.slots import kept


class Trellis:
    """Tokens, parents and log-probabilities of all rows in the last T steps, by the engine's clock. T doubles when
    needed.

    Args:
        slots: B.
        rows: K.
        like: A tensor of the dtype and device of log-probabilities.
    """

    def __init__(self, slots: int, rows: int, like: Tensor):
        shape = (32, slots, rows)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=like.device)
        self.own = torch.arange(rows, device=like.device)
        self.parents = self.own.expand(shape).clone()
        self.values = like.new_zeros(shape)

    def add(self, clock: int, oldest: int, choice: Choice) -> None:
        """Store the choice of step `clock`; keep the steps from `oldest` on."""
        if clock - oldest >= len(self.tokens):
            self._fit(clock, 2 * len(self.tokens))
        place = clock % len(self.tokens)
        self.tokens[place] = choice.tokens
        if choice.parents is not None:
            self.parents[place] = choice.parents
        elif len(self.own) > 1:
            self.parents[place] = self.own
        self.values[place] = choice.log_probabilities

    def _fit(self, clock: int, size: int) -> None:
        """Change T to `size`; the last steps before `clock` are kept."""
        steps = np.arange(max(0, clock - min(size, len(self.tokens))), clock)
        for name in ("tokens", "parents", "values"):
            old = getattr(self, name)
            new = old.new_zeros(size, *old.shape[1:])
            new[steps % size] = old[steps % len(old)]
            setattr(self, name, new)

    def release(self, keep: Tensor, slots: int, clock: int, oldest: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones. Keep the steps from
        `oldest` up to `clock`."""
        self._fit(clock, max(32, 1 << (clock - oldest).bit_length()))
        self.tokens, self.parents, self.values = (
            kept(x, keep, slots, 1) for x in (self.tokens, self.parents, self.values)
        )

    def paths(self, slots: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, ...]:
        """Follow the back-pointers of finished hypotheses.

        Args:
            slots: [s], the slots.
            starts: [s], the clock of each sentence's first step.
            ends: [s, n], where each hypothesis ended: step of its sentence * K + row.

        Returns:
            Token ids and their log-probabilities, each [s, n, length], and lengths [s, n].
        """
        tokens, parents, values, where = self.tokens, self.parents, self.values, slots
        if tokens.device.type != "cpu":  # one copy of all that may be needed
            at = torch.from_numpy(slots).to(tokens.device)
            tokens, parents, values, where = *(x[:, at].cpu() for x in (tokens, parents, values)), np.arange(len(slots))
        tokens, parents, values = tokens.numpy(), parents.numpy(), values.numpy()
        lengths, row = np.divmod(ends, tokens.shape[2])
        most = int(lengths.max(initial=0))
        ids, log_probabilities = np.zeros((*ends.shape, most), np.int64), np.zeros((*ends.shape, most), values.dtype)
        for step in reversed(range(most)):
            live = lengths > step
            at = ((starts + step) % len(tokens))[:, None], where[:, None], row
            ids[:, :, step], log_probabilities[:, :, step] = tokens[at], values[at]
            row = np.where(live, parents[at], row)
        return ids, log_probabilities, lengths
