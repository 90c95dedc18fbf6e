"""A target transform: the model writes the tokens from the middle on first."""

import dataclasses

import numpy as np

from s2s.config.schema import option
from s2s.data.target_transforms import TargetTransform


@dataclasses.dataclass
class MiddleOutConfig:
    """Options of the transform."""

    type: str = option("middle_out", "component")


class MiddleOut(TargetTransform):
    """Tokens n // 2 ... n - 1, then the others."""

    Config = MiddleOutConfig
    moves_words = True

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """As TargetTransform."""
        return np.roll(ids, -(len(ids) // 2))

    def undo(self, ids: np.ndarray) -> np.ndarray:
        """As TargetTransform."""
        return np.roll(ids, len(ids) // 2)
