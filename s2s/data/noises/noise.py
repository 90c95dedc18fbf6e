"""What makes a source and a target of one text, for `task=denoising`."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np

from s2s.errors import UserError
from s2s.text.vocabulary import SPECIALS, Vocabulary

SENTINELS = 100  # symbols <extra_id_0> and so on that a store of texts reserves
MODES = ("<R>", "<S>", "<X>")  # of UL2


class Noised(NamedTuple):
    """A source and a target, int64 ids without BOS and EOS."""

    source: np.ndarray
    target: np.ndarray


class Noise(ABC):
    """Makes examples of texts: a component of kind `noise`, for `task.noise=NAME`.

    Args:
        config: Its `Config`.
        vocabulary: Of the texts and the sources.
    """

    Config: ClassVar[Any]

    def __init__(self, config: Any, vocabulary: Vocabulary):
        self.config, self.vocabulary = config, vocabulary

    def others(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Random tokens of texts, which are no special and no reserved symbols; int64 [count]."""
        return rng.integers(len(SPECIALS), len(self.vocabulary) - len(self.vocabulary.reserved), count)

    @abstractmethod
    def __call__(self, ids: np.ndarray, rng: np.random.Generator) -> Noised:
        """Make an example.

        Args:
            ids: A text of at least one token, int64 [n], without EOS; it must not be written to.
            rng: The only source of randomness.
        """

    @abstractmethod
    def most(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The most tokens of sources and of targets, for texts of these lengths; integers [texts] each."""

    def symbol(self, name: str) -> int:
        """The id of a reserved symbol. Raises UserError if the vocabulary does not have it."""
        if name not in self.vocabulary.reserved:
            raise UserError(f"task.noise={self.config.type}: requires the reserved symbol {name}; make the store with "
                            f"s2s-preprocess task=denoising, or with 'tokenizer.reserved=[{name}]'")  # fmt: skip
        return self.vocabulary.reserved[name]

    def sentinels(self) -> np.ndarray:
        """The ids of <extra_id_0>, <extra_id_1> and so on, as many as the vocabulary reserves; at least one."""
        self.symbol("<extra_id_0>")
        count = next(n for n in range(1, len(self.vocabulary) + 1) if f"<extra_id_{n}>" not in self.vocabulary.reserved)
        return np.array([self.symbol(f"<extra_id_{n}>") for n in range(count)], np.int64)
