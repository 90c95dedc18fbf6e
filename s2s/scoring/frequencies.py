"""How well words are written, by how often they are in the training text: rare words and new ones tell systems of
bytes, characters and subwords apart (Edman et al. 2024, https://arxiv.org/abs/2302.14220).

A word of a hypothesis is right if its reference has it, too, at most as often as there. Precision, recall and F1 of the
words of a range of frequencies are those of all lines together.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping

from s2s.scoring.details import columns
from s2s.scoring.metric import Lines

FIRST = (0, 1, 2, 5, 10, 100, 1000, 10_000)  # the first frequency of each range


@dataclasses.dataclass
class Words:
    """The words of a range of frequencies in the lines of a system.

    Attributes:
        reference, hypothesis: Number of words.
        right: Number of words that both have.
    """

    reference: int = 0
    hypothesis: int = 0
    right: int = 0

    @property
    def recall(self) -> float:
        """In percent; 0 without words."""
        return 100 * self.right / self.reference if self.reference else 0.0

    @property
    def precision(self) -> float:
        """In percent; 0 without words."""
        return 100 * self.right / self.hypothesis if self.hypothesis else 0.0

    @property
    def f1(self) -> float:
        """In percent; 0 without words."""
        both = self.reference + self.hypothesis
        return 200 * self.right / both if both else 0.0


Table = dict[str, dict[str, Words]]  # range -> system -> its words


def by_frequency(training: Iterable[str], references: Lines, systems: Mapping[str, Lines]) -> Table:
    """Count the words of systems by range of frequency; ranges without a word of a reference are left out.

    Args:
        training: Lines of the training text, with spaces between words.
        references: Lines of the references.
        systems: The hypotheses of each system.
    """
    counts: Counter[str] = Counter()
    for line in training:
        counts.update(line.split())
    table: Table = {_name(place): {system: Words() for system in systems} for place in range(len(FIRST))}
    for system, lines in systems.items():
        for reference, hypothesis in zip(references, lines, strict=True):
            expected, written = Counter(reference.split()), Counter(hypothesis.split())
            for word in {*expected, *written}:
                words = table[_name(_range(counts[word]))][system]
                words.reference += expected[word]
                words.hypothesis += written[word]
                words.right += min(expected[word], written[word])
    return {name: row for name, row in table.items() if any(words.reference for words in row.values())}


def _range(count: int) -> int:
    """The number of the range of a frequency."""
    return sum(count >= first for first in FIRST) - 1


def _name(place: int) -> str:
    """A range in words, such as 2-4."""
    first = FIRST[place]
    if place == len(FIRST) - 1:
        return f"{first}+"
    last = FIRST[place + 1] - 1
    return str(first) if first == last else f"{first}-{last}"


def as_text(table: Table) -> str:
    """The F1, and precision and recall, of each system by range of frequency."""
    systems = list(next(iter(table.values()), {}))
    rows = [["in training", "words", *(f"F1 {system} (precision/recall)" for system in systems)]]
    for name, row in table.items():
        total = next(iter(row.values())).reference
        rows.append([name, f"{total:,}", *(f"{words.f1:.1f} ({words.precision:.1f}/{words.recall:.1f})"
                                           for words in row.values())])  # fmt: skip
    return columns(rows)
