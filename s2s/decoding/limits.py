"""What a hypothesis may look like: least and greatest length, the tokens it must start with; and how length is scored.

Shapes: B sentences, P the longest forced prefix. Lengths are in tokens and do not count EOS, unless it is said.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig


@dataclass
class Limits:
    """Limits of each sentence of a batch.

    Attributes:
        shortest: [B] int64; EOS is impossible before this length.
        longest: [B] int64; at this length EOS is forced, and its log-probability counts.
        prefix: [B, P] int64, right padded.
        prefix_lengths: [B] int64.
        steps: Steps after which every hypothesis of the batch has ended.
        free_from: First step at which no sentence has a forced token or a forbidden EOS.
        forced_from: First step at which some sentence may be at its greatest length.
    """

    shortest: Tensor
    longest: Tensor
    prefix: Tensor
    prefix_lengths: Tensor
    steps: int
    free_from: int
    forced_from: int

    @classmethod
    def make(
        cls, config: DecodeConfig, source_lengths: list[int], prefixes: list[list[int]], device: torch.device | str
    ) -> "Limits":
        """Limits of a batch: a * source length + b, rounded down. A prefix is never cut: it raises the greatest
        length to its own, and where least and greatest contradict each other the greatest counts.

        Args:
            source_lengths: Source tokens of each sentence, without EOS.
            prefixes: Forced first target tokens of each sentence, perhaps none.
        """
        longest = [
            max(int(config.max_length_a * length) + config.max_length_b, len(prefix))
            for length, prefix in zip(source_lengths, prefixes, strict=True)
        ]
        shortest = [
            min(max(int(config.min_length_a * length) + config.min_length_b, len(prefix)), most)
            for length, prefix, most in zip(source_lengths, prefixes, longest, strict=True)
        ]
        width = max(map(len, prefixes))
        padded = [prefix + [0] * (width - len(prefix)) for prefix in prefixes]

        def tensor(values: list) -> Tensor:
            return torch.tensor(values, dtype=torch.int64, device=device)

        return cls(
            tensor(shortest),
            tensor(longest),
            tensor(padded).view(len(prefixes), width),
            tensor([len(prefix) for prefix in prefixes]),
            steps=max(longest) + 1,
            free_from=max(shortest),
            forced_from=min(longest),
        )

    def early(self, step: int) -> Tensor | None:
        """Bool [B, 1], true where EOS is impossible at this step; None: nowhere."""
        return (self.shortest > step)[:, None] if step < self.free_from else None

    def late(self, step: int) -> Tensor | None:
        """Bool [B, 1], true where only EOS is possible at this step; None: nowhere."""
        return (self.longest <= step)[:, None] if step >= self.forced_from else None

    def forced(self, step: int) -> tuple[Tensor, Tensor] | None:
        """Bool [B, 1], true where the prefix decides this step, and its token [B, 1] int64; None: nowhere."""
        if step >= self.prefix.size(1):
            return None
        return (self.prefix_lengths > step)[:, None], self.prefix[:, step, None]

    def release(self, keep: Tensor) -> None:
        """Keep these sentences, drop the others; keep: [B'] int64."""
        self.shortest, self.longest = self.shortest[keep], self.longest[keep]
        self.prefix, self.prefix_lengths = self.prefix[keep], self.prefix_lengths[keep]


def divisor(config: DecodeConfig, length: int | Tensor) -> float | Tensor:
    """What a log-probability is divided by to make a score; `length` is in tokens and COUNTS EOS.

    `power`: length^alpha. `gnmt`: ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14).
    """
    base = length if config.length_normalization == "power" else (5 + length) / 6
    return base**config.length_penalty
