"""Rules of what hypotheses may hold, beside their limits of length: masks on the logits of a step.

A mask is set after the log-normaliser is known, so log-probabilities stay those of the model. What a forced prefix says
goes before all rules. A row to which the rules leave no token may end, even below the minimum length.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, W tokens that are remembered of each row.
"""

from collections import defaultdict

import numpy as np
import torch
from torch import Tensor

from s2s.decoding.choice import NEVER, Choice
from s2s.decoding.config import DecodeConfig
from s2s.decoding.limits import Limits
from s2s.nn.slots import kept
from s2s.text.vocabulary import EOS, PAD, UNK

Ids = list[int]


class Rule:
    """A mask on logits. What a rule knows of each row, beside the tokens so far, it keeps with these verbs."""

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        """Set logits to -inf.

        Args:
            logits: [R, V], changed in place.
            history: [R, W] int64, the last tokens, right-aligned, PAD before the first one.
            limits: Of length.
        """
        raise NotImplementedError

    def start(self, slots: int, rows: int) -> None:
        """A run begins with so many slots, all of them free."""

    def advance(self, choice: Choice) -> None:
        """A step is chosen."""

    def admit(self, slots: Tensor) -> None:
        """Other sentences take these slots."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""


class NoRepeatedNgram(Rule):
    """No hypothesis holds the same n tokens twice.

    Args:
        n: At least 1.
    """

    def __init__(self, n: int):
        self.n = n

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        starts = history.size(1) - self.n + 1  # of earlier n-grams, and of the one that the next token completes
        if starts <= 0:
            return
        same = torch.ones_like(history[:, :starts], dtype=torch.bool)
        for i in range(self.n - 1):
            same &= history[:, i : i + starts] == history[:, starts + i, None]
        _forbid(logits, history[:, self.n - 1 :], same)


class Forbidden(Rule):
    """Some sequences of tokens are in no hypothesis.

    Args:
        phrases: Token ids of each, at least one.
        device: Of the models.
    """

    def __init__(self, phrases: list[Ids], device: torch.device | str):
        by_length = defaultdict(list)
        for phrase in phrases:
            by_length[len(phrase)].append(phrase)
        self.phrases = [torch.tensor(some, device=device) for some in by_length.values()]  # each [P, n]

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        for phrases in self.phrases:
            n = phrases.size(1)
            if history.size(1) < n - 1:
                continue
            before = history[:, history.size(1) - n + 1 :]  # [R, n - 1]
            same = (before[:, None] == phrases[:, :-1]).all(dim=2)
            _forbid(logits, phrases[:, -1].expand(len(history), -1), same)


class Closed(Rule):
    """A prefix that is one word is a whole one: no token comes after it that lengthens the word.

    Args:
        closing: Bool [V], tokens that lengthen none.
        device: Of the models.
    """

    def __init__(self, closing: np.ndarray, device: torch.device | str):
        self.closing = torch.from_numpy(closing).to(device)

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        done, _, _, lengths = limits.host
        here = (done == lengths) & (lengths > 0)
        if not here.any():
            return
        steps = torch.from_numpy(np.where(here, done, 0).repeat(len(history) // len(done))).to(history.device)
        # Of the tokens after the first one, none begins another word.
        later = torch.arange(history.size(1), 0, -1, device=history.device) < steps[:, None]
        one = (steps > 0) & ~(self.closing[history] & later).any(dim=1)
        logits.masked_fill_(one[:, None] & ~self.closing, NEVER)


class Rules:
    """All rules of a run, with the tokens of every row so far.

    Args:
        rules: At least one.
        config: Decode options.
        slots: B.
        device: Of the models.
    """

    def __init__(self, rules: list[Rule], config: DecodeConfig, slots: int, device: torch.device | str):
        self.rules, self.allow_unknown = rules, config.allow_unknown
        self.history = torch.zeros(slots, config.rows, 0, dtype=torch.int64, device=device)
        for rule in rules:
            rule.start(slots, config.rows)

    def __call__(self, logits: Tensor, limits: Limits) -> None:
        """Mask what the rules forbid at this step. logits: [R, V], changed here."""
        forced = limits.forced()
        if forced is not None:
            token = forced[1].expand(self.history.shape[:2]).reshape(-1, 1)
            value = logits.gather(1, token)
        for rule in self.rules:
            rule(logits, self.history.flatten(0, 1), limits)
        if forced is not None:
            decided = forced[0].expand(self.history.shape[:2]).reshape(-1, 1)
            logits.scatter_(1, token, torch.where(decided, value, logits.gather(1, token)))
        limits.stuck = None
        if limits.early() is not None:
            most = logits[:, EOS + 1 :].amax(dim=1)
            if self.allow_unknown:
                most = torch.maximum(most, logits[:, UNK])
            limits.stuck = (most == NEVER).view(self.history.shape[:2])

    def advance(self, choice: Choice, limits: Limits) -> None:
        """A step is chosen."""
        history = self.history
        if choice.parents is not None:
            history = history.gather(1, choice.parents[:, :, None].expand_as(history))
        width = int(limits.host[0].max()) + 1
        self.history = torch.cat([history, choice.tokens[:, :, None]], dim=2)[:, :, -width:]
        for rule in self.rules:
            rule.advance(choice)

    def admit(self, slots: Tensor) -> None:
        """Other sentences take these slots."""
        self.history[slots] = PAD
        for rule in self.rules:
            rule.admit(slots)

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""
        self.history = kept(self.history, keep, slots)
        for rule in self.rules:
            rule.release(keep, slots)


def _forbid(logits: Tensor, tokens: Tensor, where: Tensor) -> None:
    """Set logits [R, V] of tokens [R, n] to -inf where it is said [R, n]; elsewhere PAD's, which nobody may choose."""
    logits.scatter_(1, torch.where(where, tokens, PAD), NEVER)
