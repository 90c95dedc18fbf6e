"""Rules restrict the tokens of hypotheses, by masks on the logits of a step.

Masks are applied after the log-normaliser is computed, so log-probabilities stay those of the model. A forced prefix
overrides all rules. A row without any allowed token may end, even below the minimum length.

Shapes: B slots, K rows per slot, R = B*K rows, V vocabulary, W tokens of history per row.
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
    """A mask on logits. A rule may keep state of each row; `start`, `advance`, `admit` and `release` maintain it.

    Attributes:
        lengths: Minimum and maximum length of hypotheses in tokens, if the rule dictates them in place of the options.
    """

    feature = "rules"
    lengths: tuple[int, int] | None = None

    def __call__(self, logits: Tensor, history: Tensor, limits: Limits) -> None:
        """Set the logits of forbidden tokens to -inf.

        Args:
            logits: [R, V], changed in place; V may differ from step to step.
            history: [R, W] int64, the last tokens of each row, right-aligned, PAD before the first one.
            limits: Length limits and forced prefixes.
        """
        raise NotImplementedError

    def start(self, slots: int, rows: int) -> None:
        """Begin a run with B slots, all of them free, and K rows per slot."""

    def advance(self, choice: Choice) -> None:
        """Update the state after a step."""

    def admit(self, slots: Tensor, sentences: list[Sentence]) -> None:
        """Put sentences into these slots; slots: [n] int64."""

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones."""


class Rules:
    """All rules of a run, and the history of each row.

    Args:
        rules: At least one rule.
        config: Decode options.
        slots: B.
        device: Device of the models.
    """

    def __init__(self, rules: list[Rule], config: DecodeConfig, slots: int, device: torch.device | str):
        self.rules, self.allow_unknown = rules, config.allow_unknown
        self.history = torch.zeros(slots, config.rows, 0, dtype=torch.int64, device=device)
        for rule in rules:
            rule.start(slots, config.rows)

    def __call__(self, logits: Tensor, limits: Limits) -> None:
        """Set the logits [R, V] of tokens that the rules forbid at this step to -inf, in place."""
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
        """Add a step to the history, and update all rules."""
        history = self.history
        if choice.parents is not None:
            history = history.gather(1, choice.parents[:, :, None].expand_as(history))
        width = int(limits.host[0].max()) + 1
        self.history = torch.cat([history, choice.tokens[:, :, None]], dim=2)[:, :, -width:]
        for rule in self.rules:
            rule.advance(choice)

    def admit(self, slots: Tensor, sentences: list[Sentence]) -> None:
        """Put sentences into these slots; slots: [n] int64."""
        self.history[slots] = PAD
        for rule in self.rules:
            rule.admit(slots, sentences)

    def release(self, keep: Tensor, slots: int) -> None:
        """Change the number of slots to `slots`; the slots `keep` [B'] int64 become the first ones."""
        self.history = kept(self.history, keep, slots)
        for rule in self.rules:
            rule.release(keep, slots)


def forbid(logits: Tensor, tokens: Tensor, where: Tensor) -> None:
    """Set the logits of some tokens to -inf, in place.

    Args:
        logits: [R, V].
        tokens: [R, n] int64.
        where: Bool [R, n], which of the tokens.
    """
    # PAD stands for the other tokens: it is never chosen.
    logits.scatter_(1, torch.where(where & (tokens < logits.size(1)), tokens, PAD), NEVER)
