"""Cepstral mean and variance normalisation: each feature gets mean 0 and variance 1, over a corpus or an utterance."""

import dataclasses

import numpy as np

UNIT = 1 << 10  # features are rounded to multiples of 1 / UNIT, so that sums are exact
SMALLEST = 1e-5  # smallest deviation: a constant feature becomes 0, not infinite


@dataclasses.dataclass
class Statistics:
    """The number of frames, and the sums of their features and of the squares. They are integers of any size, so
    adding statistics is exact, and the result does not depend on how frames are divided among processes.
    """

    frames: int = 0
    sums: np.ndarray | int = 0  # [F], in 1 / UNIT
    squares: np.ndarray | int = 0  # [F], in 1 / UNIT^2

    @classmethod
    def of(cls, features: np.ndarray) -> "Statistics":
        """The statistics of features [S, F], which must be below 2^15 in absolute value; S must be below 2^30."""
        units = np.rint(features.astype(np.float64) * UNIT).astype(np.int64)
        return cls(len(features), units.sum(0).astype(object), (units * units).sum(0).astype(object))

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(self.frames + other.frames, self.sums + other.sums, self.squares + other.squares)

    def facts(self) -> dict[str, list[float]]:
        """`mean` and `deviation` of each feature, as in a store's manifest. There must be at least one frame."""
        mean = self.sums / self.frames / UNIT
        variance = (self.frames * self.squares - self.sums * self.sums) / (self.frames * UNIT) ** 2
        return {"mean": [round(float(x), 6) for x in mean],
                "deviation": [round(float(x) ** 0.5, 6) for x in variance]}  # fmt: skip


def normalise(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(features - mean) / deviation, float32 [S, F]. features: [S, F]; mean, deviation: [F]."""
    return ((features - mean) / np.maximum(deviation, SMALLEST)).astype(np.float32)


def normalise_utterance(features: np.ndarray) -> np.ndarray:
    """Normalise the features [S, F] of an utterance to mean 0 and variance 1 over its frames, float32 [S, F]."""
    return normalise(features, features.mean(0), features.std(0)) if len(features) else features
