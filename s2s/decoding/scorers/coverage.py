"""`decode.coverage_penalty`: lowers the score of hypotheses that leave out a part of the source (Wu et al. 2016)."""

import dataclasses

import numpy as np

from s2s.config.schema import option
from s2s.decoding.scorers.scorer import FinalScorer


@dataclasses.dataclass
class CoverageConfig:
    """Options of coverage."""

    type: str = option("coverage", "component")
    weight: float = option(0.2, "beta, the weight of the coverage penalty", at_least=0, at_most=1e6)


class Coverage(FinalScorer):
    """beta * sum over source positions of log(min(attention, 1)), with the attention of `decode.alignment_layer`. A
    position counts unless it stands for the EOS of a text alone."""

    Config = CoverageConfig
    attends = True

    def __init__(self, config: CoverageConfig, loaded: None, setting):
        super().__init__(config, loaded, setting)
        self.weight = config.weight

    def rate(self, finished) -> list[float]:
        most = finished.setting.models[0].memory_length
        pairs = zip(finished.attention(), finished.sources, strict=True)
        return [coverage(weights[:, : most(len(source))]) for weights, source in pairs]


def coverage(weights: np.ndarray) -> float:
    """The coverage of the source by attention: sum_i log(min(sum_j a_ij, 1)) <= 0 (Wu et al. 2016, eq. 14).

    Args:
        weights: [T, S], a_ij at row j, the target position, and column i, the source position (without that of EOS
            alone).
    """
    return float(np.log(weights.sum(axis=0, dtype=np.float64).clip(np.finfo(np.float32).tiny, 1)).sum())
