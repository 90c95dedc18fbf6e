"""The order in which a model sees the tokens of a target, and the way back: components of kind `target_transform`."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from s2s import registry
from s2s.config import schema
from s2s.config.schema import option
from s2s.text.tokenizer import Tokenizer
from s2s.text.vocabulary import EOS


def target_transform(chosen: Any, tokenizer: Tokenizer, where: str = "data.target_transform") -> "TargetTransform":
    """A transform of targets.

    Args:
        chosen: Its name, its config, or the values of its config.
        tokenizer: Of the targets.
        where: What a message calls the config.

    Raises:
        UserError: there is no such component, or it has no such options.
    """
    if isinstance(chosen, str):
        chosen = {"type": chosen}
    if isinstance(chosen, Mapping):
        kind = registry.find("target_transform", chosen["type"])
        return kind(schema.load(kind.Config, dict(chosen), where), tokenizer)
    return registry.find("target_transform", chosen.type)(chosen, tokenizer)


def current(data: dict[str, Any]) -> dict[str, Any]:
    """The section `data` of a config that may be of 0.1, as it is written now."""
    chosen = data["target_transform"]
    return {"transforms": [], **data, "target_transform": {"type": chosen} if isinstance(chosen, str) else chosen}


@dataclasses.dataclass
class TargetTransformConfig:
    """What all have."""

    type: str = option("none", "component")


class TargetTransform:
    """A rearrangement of the ids of a target, here none. `undo` takes any ids that a model may write.

    Args:
        config: Its `Config`.
        tokenizer: Of the targets.

    Attributes:
        moves_words: The words that a model writes come in another order than those of the text.
        closing: Bool [vocabulary], which tokens show that the word before them is whole, where not every one does and a
            prefix has to be whole words; None: a prefix may end anywhere.
    """

    Config: ClassVar[type] = TargetTransformConfig
    moves_words = False
    closing: np.ndarray | None = None

    def __init__(self, config: Any, tokenizer: Tokenizer):
        self.config = config

    @property
    def kind(self) -> str:
        """Its name."""
        return self.config.type

    @property
    def is_none(self) -> bool:
        """Whether a model writes the text as it is."""
        return type(self) is TargetTransform

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """Ids of a target in the model's order, int64 [n]."""
        return ids

    def undo(self, ids: np.ndarray) -> np.ndarray:
        """Ids in the model's order as the text has them, int64 [n]."""
        return ids


@dataclasses.dataclass
class ReverseConfig(TargetTransformConfig):
    """Options of `reverse`."""

    type: str = option("reverse", "component")


class Reverse(TargetTransform):
    """The last token first."""

    Config = ReverseConfig

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """As TargetTransform."""
        return ids[::-1]

    undo = apply


@dataclasses.dataclass
class LastWordFirstConfig(TargetTransformConfig):
    """Options of `last_word_first`."""

    type: str = option("last_word_first", "component")


class LastWordFirst(TargetTransform):
    """The last word, which has to rhyme, before the others, so that a prefix can force it. What is forced is that word,
    whole, and the beginning of the others. The tokenizer knows where words begin."""

    Config = LastWordFirstConfig
    moves_words = True

    def __init__(self, config: LastWordFirstConfig, tokenizer: Tokenizer):
        super().__init__(config, tokenizer)
        self.begins, self.separator = tokenizer.word_marks()
        self.symbols = len(tokenizer.vocabulary)

    @property
    def closing(self) -> np.ndarray | None:
        """As TargetTransform."""
        if self.begins is not None and self.begins.all():
            return None
        closing = np.zeros(self.symbols, bool) if self.begins is None else self.begins.copy()
        closing[EOS] = True
        if self.separator is not None:
            closing[self.separator] = True
        return closing

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """As TargetTransform."""
        return self._turn(ids, -1)

    def undo(self, ids: np.ndarray) -> np.ndarray:
        """As TargetTransform."""
        return self._turn(ids, 0)

    def _turn(self, ids: np.ndarray, which: int) -> np.ndarray:
        """What is after the last (-1) or first (0) boundary between words, then what is before it."""
        if len(ids) < 2:
            return ids
        if self.separator is not None:
            places = np.flatnonzero(ids == self.separator)
            if not len(places):
                return ids
            place = places[which]
            return np.concatenate([ids[place + 1 :], ids[place : place + 1], ids[:place]])
        places = 1 + np.flatnonzero(self.begins[ids[1:]])
        if not len(places):
            return ids
        return np.concatenate([ids[places[which] :], ids[: places[which]]])
