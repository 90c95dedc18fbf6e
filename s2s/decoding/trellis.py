"""Back-pointers of a search, which are followed when a sentence is finished.

The last steps are kept as they came, and written into the table together: copies of single steps are slow.

Shapes: T steps kept, B slots, K rows per slot, n hypotheses of a sentence, s finished slots.
"""

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.search.choice import Choice
from s2s.nn.slots import kept

RECENT = 32  # steps that are written together


class Trellis:
    """Tokens, parents and log-probabilities of all rows in the last T steps, by the engine's clock. T doubles when
    needed.

    Args:
        slots: B.
        rows: K.
        like: A tensor of the dtype and device of log-probabilities.
    """

    def __init__(self, slots: int, rows: int, like: Tensor):
        shape = (RECENT, slots, rows)
        self.tokens = torch.zeros(shape, dtype=torch.int64, device=like.device)
        self.own = torch.arange(rows, device=like.device)
        self.parents = self.own.expand(shape).clone()
        self.values = like.new_zeros(shape)
        self.recent: list[Choice] = []  # of the last steps before `clock`, not yet in the table
        self.clock = self.oldest = 0

    def add(self, clock: int, oldest: int, choice: Choice) -> None:
        """Store the choice of step `clock`; keep the steps from `oldest` on."""
        self.recent.append(choice)
        self.clock, self.oldest = clock + 1, oldest
        if len(self.recent) == RECENT:
            self._write()

    def _write(self) -> None:
        """Write the recent steps into the table, which grows if needed."""
        if not self.recent:
            return
        first, needed = self.clock - len(self.recent), self.clock - self.oldest
        if needed > len(self.tokens):
            self._fit(first, 1 << (needed - 1).bit_length())
        columns = [(self.tokens, [choice.tokens for choice in self.recent]),
                   (self.values, [choice.log_probabilities for choice in self.recent])]  # fmt: skip
        if len(self.own) > 1:  # a single row is its own parent
            own = self.own.expand_as(self.recent[0].tokens)
            columns.append((self.parents, [own if each.parents is None else each.parents for each in self.recent]))
        for table, steps in columns:
            start = first % len(table)
            for place, part in ((start, steps[: len(table) - start]), (0, steps[len(table) - start :])):
                if part:
                    torch.stack(part, out=table[place : place + len(part)])
        self.recent = []

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
        self._write()
        self._fit(clock, max(RECENT, 1 << (clock - oldest).bit_length()))
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
        self._write()
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
