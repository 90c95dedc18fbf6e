"""Limits of hypotheses (minimum and maximum length, forced prefix), and length normalisation.

Shapes: B slots, P the longest forced prefix. Lengths are in tokens and do not count EOS unless stated.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.config import DecodeConfig
from s2s.decoding.setting import Setting
from s2s.nn.slots import kept


class Limits:
    """Limits of the sentence in each slot, and the number of its steps. A free slot has no limits.

    Args:
        config: Decode options.
        slots: B.
        sentences: All sentences of the run.
        device: Device of the tensors.
        most: As `EncoderDecoder.max_length`: the maximum length that the models allow, EOS counted; None: any.
        length: The length of a source, as in Setting.

    Attributes:
        table: [4, B] int64 on the host, so that a limit that applies to no slot costs nothing: steps done, minimum and
            maximum length, length of the prefix. `values` is the same on the device; on a CPU it is `table` itself.
        done: [B, 1] int64, steps done.
        longest: [B] int64, maximum length. EOS is forced there, and its log-probability counts.
        steps: The number of steps after which every hypothesis of every sentence has ended.
        places: [V] int64, the column of each symbol in the logits; None: its id.
        host_longest: [B], a copy of `longest` on the host.
        stuck: Bool [B, K], rows that may end at this step because they cannot continue; None: there are no such rows.
    """

    def __init__(self, config: DecodeConfig, slots: int, sentences: list, device: torch.device | str,
                 most: int | None = None, length: Callable[[Sequence], int] = len):  # fmt: skip
        self.config, self.most, self.length = config, most, length
        self.known: dict[tuple[int, int], tuple[int, int]] = {}  # bounds by the lengths of source and prefix
        self.steps = max(self.bounds(sentence)[1] for sentence in sentences) + 1
        width = max(len(sentence.prefix) for sentence in sentences)
        self.prefix_ids = torch.zeros(slots, width, dtype=torch.int64, device=device)
        self.places: Tensor | None = None
        self.stuck: Tensor | None = None
        table = torch.zeros(4, slots, dtype=torch.int64)
        table[2] = self.steps
        self._hold(table)

    def _hold(self, table: Tensor) -> None:
        self.table, self.host, self.values = table, table.numpy(), table.to(self.prefix_ids.device)
        done, self.shortest, self.longest, self.prefix_lengths = self.values
        self.done = done[:, None]

    def bounds(self, sentence) -> tuple[int, int]:
        """Minimum and maximum length of a sentence's hypotheses, as the function `bounds`."""
        key = self.length(sentence.source), len(sentence.prefix)
        if key not in self.known:
            self.known[key] = bounds(self.config, *key, self.most)
        return self.known[key]

    @property
    def host_longest(self) -> np.ndarray:
        return self.host[2]

    def admit(self, slots: Tensor, host_slots: np.ndarray, sentences: list) -> None:
        """Put sentences into these slots; `host_slots` is `slots` on the host."""
        bounds = np.array([self.bounds(sentence) for sentence in sentences]).T
        lengths = [len(sentence.prefix) for sentence in sentences]
        self.host[:, host_slots] = np.stack([np.zeros_like(bounds[0]), *bounds, lengths])
        self.values[:, slots] = torch.from_numpy(self.host[:, host_slots]).to(slots.device)
        if width := self.prefix_ids.size(1):
            rows = [sentence.prefix + [0] * (width - len(sentence.prefix)) for sentence in sentences]
            self.prefix_ids[slots] = torch.tensor(rows, device=slots.device)

    @property
    def prefix(self) -> Tensor:
        """[B, P] int64, the columns in the logits of the tokens of each forced prefix."""
        return self.prefix_ids if self.places is None else self.places[self.prefix_ids]

    def free(self, slots: Tensor, host_slots: np.ndarray) -> None:
        """Mark these slots as free; `host_slots` is `slots` on the host."""
        self.host[:, host_slots] = np.array([0, 0, self.steps, 0])[:, None]
        self.shortest[slots], self.longest[slots], self.prefix_lengths[slots] = 0, self.steps, 0

    def release(self, keep: Tensor, host_keep: np.ndarray, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` (on the host: `host_keep`) become the first ones."""
        self.prefix_ids = kept(self.prefix_ids, keep, slots)
        table = kept(self.table, torch.from_numpy(host_keep), slots, 1)
        table[2, len(host_keep) :] = self.steps
        self._hold(table)

    def advance(self) -> None:
        """Count a step."""
        self.host[0] += 1
        if self.values is not self.table:
            self.done += 1

    def early(self) -> Tensor | None:
        """Bool [B, 1] or [B, K], true where EOS is not allowed at this step; None: it is allowed everywhere."""
        done, shortest, _, _ = self.host
        if not (shortest > done).any():
            return None
        early = self.shortest[:, None] > self.done
        return early if self.stuck is None else early & ~self.stuck

    def late(self) -> Tensor | None:
        """Bool [B, 1], true where only EOS is allowed at this step; None: nowhere."""
        done, _, longest, _ = self.host
        return self.longest[:, None] <= self.done if (longest <= done).any() else None

    def forced(self) -> tuple[Tensor, Tensor] | None:
        """Bool [B, 1], true where the prefix decides this step, and its token [B, 1] int64; None: nowhere."""
        done, _, _, lengths = self.host
        if not (lengths > done).any():
            return None
        token = self.prefix.gather(1, self.done.clamp(max=self.prefix_ids.size(1) - 1))
        return self.prefix_lengths[:, None] > self.done, token


def bounds(config: DecodeConfig, source: int, prefix: int, most: int | None) -> tuple[int, int]:
    """Minimum and maximum length: a * source length + b, rounded down.

    A prefix is never cut: both lengths are at least that of the prefix. The minimum is at most the maximum.

    Args:
        config: Decode options.
        source, prefix: Lengths of the source and of the forced prefix.
        most: As in Limits.
    """
    c = config
    longest = int(c.max_length_a * source) + c.max_length_b
    longest = max(longest if most is None else min(longest, most - 1), prefix)
    return min(max(int(c.min_length_a * source) + c.min_length_b, prefix), longest), longest


def needs(sentences: list, config: DecodeConfig, setting: Setting, most: int | None) -> np.ndarray:
    """Memory needs of each sentence: positions of its source in the models' memories, and tokens of its longest
    possible hypothesis with EOS, int64 [2, sentences]. `most` as in Limits."""
    keys: list[tuple] = []
    known: dict[tuple, tuple[int, int]] = {}  # by lengths, of which there are few
    for each in sentences:
        key = setting.length(each.source), len(each.prefix), *setting.lengths(each.source)
        if key not in known:
            known[key] = setting.positions(each.source), bounds(config, *key[:2], most)[1] + 1
        keys.append(key)
    return np.array([known[key] for key in keys]).T


def normalised(config: DecodeConfig, log_probability: float | Tensor, length: int | Tensor) -> float | Tensor:
    """The score of a finished hypothesis: log-probability / divisor + word_reward * (length - 1). `length` is in tokens
    and COUNTS EOS; the first `decode.uncounted` tokens are left out."""
    if config.uncounted:  # while they are forced, a score has no meaning
        length = length - config.uncounted
        length = length.clamp(min=1) if isinstance(length, Tensor) else max(length, 1)
    score = log_probability / divisor(config, length)
    return score + config.word_reward * (length - 1) if config.word_reward else score


def divisor(config: DecodeConfig, length: int | Tensor) -> float | Tensor:
    """The divisor of length normalisation; `length` is in tokens and COUNTS EOS.

    `power`: length^alpha. `gnmt`: ((5 + length) / 6)^alpha (Wu et al. 2016, eq. 14).
    """
    base = length if config.length_normalization == "power" else (5 + length) / 6
    return base if config.length_penalty == 1 else base**config.length_penalty
