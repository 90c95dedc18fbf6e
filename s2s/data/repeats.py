"""Counts examples that are repeated: in the training data, and in both the training and other data.

Lines are compared by 64-bit hashes. The hashes of validation and test data are all kept. Those of training data are
counted exactly up to LIMIT of them; of more, a sample by hash value is kept, so memory does not grow.
"""

import zlib
from typing import Any

import numpy as np

LIMIT = 1 << 22  # hashes of training pairs in memory, 32 MiB
ODD = np.uint64(0x9E3779B97F4A7C15)


def hashes(source: str, target: str) -> np.ndarray:
    """Hashes of lines that line feeds separate: of the sources, and of the pairs, uint64 [2, lines]."""
    one, other = _mixed(_of_lines(source)), _of_lines(target)
    return np.stack([one, _mixed(one * ODD + other)])


def _of_lines(text: str) -> np.ndarray:
    lines = text.encode().split(b"\n")
    sums = [np.fromiter(map(sum_, lines), np.uint64, len(lines)) for sum_ in (zlib.crc32, zlib.adler32)]
    return (sums[0] << np.uint64(32)) | sums[1]


def _mixed(x: np.ndarray) -> np.ndarray:
    """Every bit of the result depends on every bit of x (splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Repeats:
    """Counts repeated examples. All other splits must be added before `train`."""

    def __init__(self):
        self._others: dict[str, list[np.ndarray]] = {}
        self._sorted: dict[str, tuple[np.ndarray, ...]] = {}
        self._seen: dict[str, tuple[np.ndarray, ...]] = {}
        self._sample: list[np.ndarray] = []
        self._kept = self._read = self._mask = 0

    def add(self, split: str, found: np.ndarray) -> None:
        """Add hashes of a chunk of a split, uint64 [2, lines]."""
        if split != "train":
            self._others.setdefault(split, []).append(found)
            return
        for name, parts in self._others.items():
            if name not in self._sorted:
                self._sorted[name] = tuple(np.unique(row) for row in np.concatenate(parts, 1))
                self._seen[name] = tuple(np.zeros(len(row), bool) for row in self._sorted[name])
            for known, seen, row in zip(self._sorted[name], self._seen[name], found, strict=True):
                place = np.minimum(np.searchsorted(known, row), len(known) - 1)
                seen[place[known[place] == row]] = True
        self._read += found.shape[1]
        self._keep(found[1])

    def _keep(self, pairs: np.ndarray) -> None:
        """Add pairs to the sample; if it is too large, halve it."""
        self._sample.append(pairs[pairs & np.uint64(self._mask) == 0])
        self._kept += len(self._sample[-1])
        while self._kept > LIMIT:
            self._mask = 2 * self._mask + 1
            kept = np.concatenate(self._sample)
            self._sample = [kept[kept & np.uint64(self._mask) == 0]]
            self._kept = len(self._sample[0])

    def facts(self) -> dict[str, Any]:
        """The counts: `duplicates`, training pairs that equal an earlier one (`exact`: whether all were compared); and
        for each other split its `examples`, and how many have their pair or their source in the training data."""
        if not self._read:
            return {}
        kept = np.concatenate(self._sample)
        repeated = (len(kept) - len(np.unique(kept))) * (self._mask + 1)
        facts: dict[str, Any] = {"train": {"examples": self._read, "duplicates": repeated, "exact": not self._mask}}
        for name, parts in self._others.items():
            rows = np.concatenate(parts, 1)
            both = [int(np.isin(row, known[seen]).sum()) for row, known, seen in
                    zip(rows, self._sorted[name], self._seen[name], strict=True)]  # fmt: skip
            facts[name] = {"examples": rows.shape[1], "sources_in_train": both[0], "pairs_in_train": both[1]}
        return facts


def described(facts: dict[str, Any]) -> list[str]:
    """The counts that are not zero, as lines to read."""
    lines = []
    for name, of_split in facts.items():
        examples = f"of {of_split['examples']:,}"
        if duplicates := of_split.get("duplicates", 0):
            about = "" if of_split["exact"] else "about "
            lines.append(f"{name}: {about}{duplicates:,} {examples} pairs repeat an earlier one")
        if sources := of_split.get("sources_in_train", 0):
            pairs = of_split["pairs_in_train"]
            lines.append(f"{name}: {pairs:,} {examples} pairs are also in the training data, and {sources:,} "
                         "sources")  # fmt: skip
    return lines
