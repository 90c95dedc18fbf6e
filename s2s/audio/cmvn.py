"""Cepstral mean and variance normalisation: each feature gets mean 0 and variance 1, over a corpus or an utterance."""

import dataclasses

import numpy as np

UNIT = 1 << 10  # features are counted in its parts, so that sums are exact
SMALLEST = 1e-5  # deviation: a feature that never changes becomes 0, not infinite


@dataclasses.dataclass
class Statistics:
    """Frames, and sums of their features and of the squares, as integers of any size: adding them up is exact, so that
    it does not matter who counted which frames.
    """

    frames: int = 0
    sums: np.ndarray | int = 0  # [F], in 1 / UNIT
    squares: np.ndarray | int = 0  # [F], in 1 / UNIT^2

    @classmethod
    def of(cls, features: np.ndarray) -> "Statistics":
        """Those of features [S, F] below 2^15 in absolute value, fewer than 2^30 frames."""
        whole = np.rint(features.astype(np.float64) * UNIT).astype(np.int64)
        return cls(len(features), whole.sum(0).astype(object), (whole * whole).sum(0).astype(object))

    def __add__(self, other: "Statistics") -> "Statistics":
        return Statistics(self.frames + other.frames, self.sums + other.sums, self.squares + other.squares)

    def facts(self) -> dict[str, list[float]]:
        """`mean` and `deviation` of each feature, as they stand in a store's manifest. There must be frames."""
        mean = self.sums / self.frames / UNIT
        variance = (self.frames * self.squares - self.sums * self.sums) / (self.frames * UNIT) ** 2
        return {"mean": [round(float(x), 6) for x in mean],
                "deviation": [round(float(x) ** 0.5, 6) for x in variance]}  # fmt: skip


def normalise(features: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """Features [S, F] less their mean [F], over their deviation [F], float32."""
    return ((features - mean) / np.maximum(deviation, SMALLEST)).astype(np.float32)


def normalise_utterance(features: np.ndarray) -> np.ndarray:
    """The features [S, F] of an utterance with mean 0 and variance 1 over its frames, float32."""
    return normalise(features, features.mean(0), features.std(0)) if len(features) else features
