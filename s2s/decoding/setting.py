"""What a search works with, beside its options."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from s2s.data.batch import Inputs
from s2s.decoding.sentence import Sentence
from s2s.models.encoder_decoder import EncoderDecoder

Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Sides:
    """What a task says of its two sides.

    Attributes:
        collate: Makes source ids (no EOS) the models' input.
        text: Makes a hypothesis readable, of its ids and its source without tags.
        seconds: From one frame of a source to the next; None: it is text.
        max_source: decode.max_source where the config does not say it; None: any number.
        closing: Bool [V]: a prefix of one word is a whole word, which no other token than these comes after; None: it
            may be the beginning of one.
    """

    collate: Callable[[list[Ids], torch.device], Inputs]
    text: Callable[[Ids, Any], str] | None = None
    seconds: float | None = None
    max_source: int | None = None
    closing: np.ndarray | None = None

    @classmethod
    def of(cls, task) -> "Sides":
        """Of a task."""
        return cls(task.collate_sources, task.text, task.frame_seconds, task.max_source,
                   task.target_transform.closing)  # fmt: skip


@dataclasses.dataclass
class Setting:
    """What a search works with.

    Attributes:
        models: Prepared for decoding, on one device.
        sides: What the task says.
        prepare: Makes another model fit for decoding beside them.
        loaded: What components have read, by their names (`shortlist` and `draft` too).
        seed: Of what is drawn.
        tick: Called between two steps of a search; what it raises ends decoding. None: nothing is called.
        whole: Maps to logits of the models before they were prepared, which a shortlist takes rows of.
        scorers: Those beside the models.
        scorer: What rates tokens: the models and these.
        rules: What hypotheses may hold.
        closed: The rule of what comes after prefixes, where there is one.
    """

    models: list[EncoderDecoder]
    sides: Sides
    prepare: Callable[[nn.Module], nn.Module]
    loaded: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 1
    tick: Callable[[], None] | None = None
    whole: list[nn.Linear] | None = None
    scorers: list = dataclasses.field(default_factory=list)
    scorer: Any = None
    rules: list = dataclasses.field(default_factory=list)
    closed: Any = None

    @property
    def device(self) -> torch.device:
        """Of the models."""
        return next(self.models[0].parameters()).device

    def collate(self, sources: list[Ids]) -> Inputs:
        """Source ids as the models' input."""
        return self.sides.collate(sources, self.device)

    def length(self, source: Ids) -> int:
        """What options call the length of a source: tokens of a text, EOS not among them, whatever a front-end makes of
        them; of a recording the positions that the encoder makes of it."""
        return len(source) if self.sides.seconds is None else self.models[0].memory_length(len(source))

    def positions(self, source: Ids) -> int:
        """Positions of a source in the models' memories at most; a text has an EOS, too."""
        end = self.sides.seconds is None
        return max(model.memory_length(len(source) + end) for model in self.models)

    def rules_of(self, sentences: list[Sentence]) -> list:
        """The rules that count for these sentences."""
        if self.closed is not None and any(sentence.prefix for sentence in sentences):
            return [*self.rules, self.closed]
        return self.rules
