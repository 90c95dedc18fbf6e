"""Changes of the order of target tokens for the model, and their inverses: components of kind `target_transform`."""

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
    """Make a target transform.

    Args:
        chosen: Its name, its config, or its config as a dict.
        tokenizer: Tokenizer of the targets.
        where: Name of the config in messages.

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
    """The section `data` of a config, perhaps of version 0.1, in its present form."""
    chosen = data["target_transform"]
    return {"transforms": [], **data, "target_transform": {"type": chosen} if isinstance(chosen, str) else chosen}


@dataclasses.dataclass
class TargetTransformConfig:
    """Options of all target transforms."""

    type: str = option("none", "component")


class TargetTransform:
    """The order of target tokens in the model; this base class keeps the order of the text. `undo` must accept any ids
    that a model may write.

    Args:
        config: Its `Config`.
        tokenizer: Tokenizer of the targets.

    Attributes:
        moves_words: Whether the model writes words in another order than the text.
        closing: Bool [V], the tokens that may follow a complete word. It is set if a forced prefix must consist of
            complete words, and not every token begins a word. None: a prefix may end anywhere.
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
        """Whether the model writes tokens in the order of the text."""
        return type(self) is TargetTransform

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """Bring the ids of a target into the model's order, int64 [n]."""
        return ids

    def undo(self, ids: np.ndarray) -> np.ndarray:
        """Bring ids from the model's order into the order of the text, int64 [n]."""
        return ids


@dataclasses.dataclass
class ReverseConfig(TargetTransformConfig):
    """Options of `reverse`."""

    type: str = option("reverse", "component")


class Reverse(TargetTransform):
    """Reverses the order of all tokens."""

    Config = ReverseConfig

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """As in TargetTransform."""
        return ids[::-1]

    undo = apply


@dataclasses.dataclass
class LastWordFirstConfig(TargetTransformConfig):
    """Options of `last_word_first`."""

    type: str = option("last_word_first", "component")


class LastWordFirst(TargetTransform):
    """Moves the last word to the front, so that a forced prefix can dictate it, for example for rhymes. A prefix is
    then the complete last word and the beginning of the other words. The tokenizer knows where words begin."""

    Config = LastWordFirstConfig
    moves_words = True

    def __init__(self, config: LastWordFirstConfig, tokenizer: Tokenizer):
        super().__init__(config, tokenizer)
        self.begins, self.separator = tokenizer.word_marks()
        self.symbols = len(tokenizer.vocabulary)

    @property
    def closing(self) -> np.ndarray | None:
        """As in TargetTransform."""
        if self.begins is not None and self.begins.all():
            return None
        closing = np.zeros(self.symbols, bool) if self.begins is None else self.begins.copy()
        closing[EOS] = True
        if self.separator is not None:
            closing[self.separator] = True
        return closing

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """As in TargetTransform."""
        return self._turn(ids, -1)

    def undo(self, ids: np.ndarray) -> np.ndarray:
        """As in TargetTransform."""
        return self._turn(ids, 0)

    def _turn(self, ids: np.ndarray, which: int) -> np.ndarray:
        """Exchange what is before and after the last (-1) or first (0) boundary between words."""
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
