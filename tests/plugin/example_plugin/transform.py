"""A data transform: source tokens are left out, and all that is left is marked by the reserved symbol <short>."""

import dataclasses

import numpy as np

from s2s.config.schema import option
from s2s.data.transforms import Transform, uniform


@dataclasses.dataclass
class OmitConfig:
    """Options of the transform."""

    type: str = option("omit", "component")
    share: float = option(0.1, "of the source tokens that are left out", at_least=0, below=1)


class Omit(Transform):
    """Leaves out tokens, of which an example has at least one afterwards: the mark, where it lacks some."""

    Config = OmitConfig

    def __call__(self, values: np.ndarray, lengths: np.ndarray, seeds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As Transform."""
        mark = self.task.source_tokenizer.vocabulary.reserved["<short>"]
        keep = uniform(seeds, lengths) >= self.config.share
        rows = np.split(values, np.cumsum(lengths)[:-1])
        kept = [row[mine] for row, mine in zip(rows, np.split(keep, np.cumsum(lengths)[:-1]), strict=True)]
        made = [row if len(row) == n else np.append(row, mark) for row, n in zip(kept, lengths, strict=True)]
        return np.concatenate(made), np.fromiter(map(len, made), np.int64, len(made))
