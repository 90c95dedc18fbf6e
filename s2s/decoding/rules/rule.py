"""Rules of what hypotheses may hold, beside their limits of length: masks on the logits of a step.

A mask is set after the log-normaliser is known, so log-probabilities stay those of the model. What a forced prefix says
goes before all rules. A row to which the rules leave no token may end, even below the minimum length.

Shapes: B slots, K rows a slot, R = B*K rows, V vocabulary, W tokens that are remembered of each row.
"""

import torch
from torch import Tensor

from s2s.decoding.component import Component
from s2s.decoding.config import DecodeConfig
from s2s.decoding.hypothesis import NEVER
from s2s.decoding.limits import Limits
from s2s.decoding.search.choice import Choice
from s2s.decoding.sentence import Sentence
from s2s.nn.slots import kept
from s2s.text.vocabulary import EOS, PAD, UNK


class Rule(Component):
    """A mask on logits. What a rule knows of each row, beside the tokens so far, it keeps with these verbs."""

    feature = "rules"
    longest: int | None = None  # tokens of the longest hypothesis, of a rule that says it in place of the options

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        """Set logits to -inf.

        Args:
            logits: [R, V], changed in place; V is that of the output, which may differ from step to step.
            history: [R, W] int64, the last tokens, right-aligned, PAD before the first one.
            limits: Of length.
        """
        raise NotImplementedError

    def start(self, slots: int, rows: int) -> None:
        """A run begins with so many slots, all of them free."""

    def advance(self, choice: Choice) -> None:
        """A step is chosen."""

    def admit(self, slots: Tensor, sentences: list[Sentence]) -> None:
        """These sentences take these slots."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""


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
            token = forced[1].clamp(max=logits.size(1) - 1).expand(self.history.shape[:2]).reshape(-1, 1)
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

    def admit(self, slots: Tensor, sentences: list[Sentence]) -> None:
        """These sentences take these slots."""
        self.history[slots] = PAD
        for rule in self.rules:
            rule.admit(slots, sentences)

    def release(self, keep: Tensor, slots: int) -> None:
        """Keep these slots as the first of `slots` ones."""
        self.history = kept(self.history, keep, slots)
        for rule in self.rules:
            rule.release(keep, slots)


def forbid(logits: Tensor, tokens: Tensor, where: Tensor) -> None:
    """Set logits [R, V] of tokens [R, n] to -inf where it is said [R, n]; elsewhere PAD's, which nobody may choose."""
    logits.scatter_(1, torch.where(where & (tokens < logits.size(1)), tokens, PAD), NEVER)
