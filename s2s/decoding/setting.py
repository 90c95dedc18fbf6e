"""The setting of a search: models, task and components."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from s2s.data.batch import Inputs
from s2s.decoding.sentence import Sentence
from s2s.models.encoder_decoder import EncoderDecoder
from s2s.tasks.tags import plain
from s2s.text.vocabulary import BOS

Ids = list[int]


@dataclasses.dataclass(frozen=True)
class Sides:
    """Facts about source and target, from a task.

    Attributes:
        collate: Makes the models' input from source ids (without EOS).
        text: Detokenizes a hypothesis, from its ids and its source without tags.
        seconds: Seconds from one frame of a source to the next; None: sources are text.
        max_source: Default of decode.max_source; None: there is no limit.
        closing: Bool [V], the tokens that may follow a prefix of one word, which is then a complete word. None: the
            prefix may be the beginning of a word.
        lengths: Lengths of the sources of an example, without EOS; an example mostly has one.
        first: What the decoder reads first for each of some sources; None: BOS.
        firsts: What `first` may return.
        beginnings: The tokens that the hypotheses of each of some sources must begin with; None: none.
        beginning: Number of tokens of each of `beginnings`.
        suppressed: Ids of symbols that a search never writes, and of those that it does not write first.
    """

    collate: Callable[[list[Ids], torch.device], Inputs]
    text: Callable[[Ids, Any], str] | None = None
    seconds: float | None = None
    max_source: int | None = None
    closing: np.ndarray | None = None
    lengths: Callable[[Any], list[int]] = lambda source: [len(source)]
    first: Callable[[list], list[int]] | None = None
    firsts: tuple[int, ...] = ()
    beginnings: Callable[[list], list[Ids]] | None = None
    suppressed: tuple[Sequence[int], ...] = ()
    beginning: int = 0

    @classmethod
    def of(cls, task) -> "Sides":
        """The facts of a task."""
        first = task.first_tag is not None
        return cls(task.collate_sources, task.text, task.frame_seconds, task.max_source,
                   task.target_transform.closing, task.source_lengths, task.first_tokens if first else None,
                   tuple(task.first_symbols().tolist()) if first else (),
                   task.beginnings if task.beginning else None, task.suppressed, task.beginning)  # fmt: skip


@dataclasses.dataclass
class Setting:
    """The models, task and components of a search.

    Attributes:
        models: Prepared for decoding, on one device.
        sides: Facts from the task.
        prepare: Prepares another model for decoding, in the same way.
        loaded: What components have loaded, by name; also `shortlist` and `draft`.
        seed: Seed of sampling.
        tick: Called between two steps of a search; an exception that it raises ends decoding. None: nothing is called.
        raw_outputs: Output layers of the models before they were prepared; a shortlist takes rows of them.
        scorers: Scorers in addition to the models.
        scorer: Scores tokens by the models and `scorers`.
        rules: Restrictions of hypotheses.
        closed: The rule for tokens after prefixes; None: there is none.
    """

    models: list[EncoderDecoder]
    sides: Sides
    prepare: Callable[[nn.Module], nn.Module]
    loaded: dict[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 1
    tick: Callable[[], None] | None = None
    raw_outputs: list[nn.Linear] | None = None
    scorers: list = dataclasses.field(default_factory=list)
    scorer: Any = None
    rules: list = dataclasses.field(default_factory=list)
    closed: Any = None

    @property
    def device(self) -> torch.device:
        """The device of the models."""
        return next(self.models[0].parameters()).device

    def collate(self, sources: list[Ids]) -> Inputs:
        """Make the models' input from source ids."""
        return self.sides.collate(sources, self.device)

    def first(self, sources: list[Ids]) -> torch.Tensor | int:
        """What the decoder reads first for each source, int64 [n, 1]; or BOS, where it is that for all."""
        if self.sides.first is None:
            return BOS
        return torch.tensor(self.sides.first(sources), device=self.device)[:, None]

    def length(self, source: Ids) -> int:
        """The source length in the sense of options: for a text its tokens without EOS, whatever a front-end makes of
        them; for a recording its encoder positions."""
        return len(source) if self.sides.seconds is None else self.models[0].memory_length(len(source))

    def positions(self, source: Ids) -> int:
        """Maximum number of positions of a source in the models' memories; a text has an EOS, too. Several sources
        count together."""
        end, lengths = self.sides.seconds is None, self.lengths(source)
        return max(sum(model.memory_length(length + end) for length in lengths) for model in self.models)

    def lengths(self, source: Ids) -> list[int]:
        """The lengths of the sources of an example, without EOS."""
        return self.sides.lengths(plain(source))

    def rules_of(self, sentences: list[Sentence]) -> list:
        """The rules that apply to these sentences."""
        if self.closed is not None and any(sentence.prefix for sentence in sentences):
            return [*self.rules, self.closed]
        return self.rules
