"""What a metric is, and what it returns."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

from s2s import __version__

Lines = Sequence[str]
References = Sequence[Lines]


@dataclasses.dataclass(frozen=True)
class Score:
    """A corpus-level score, and how it was made.

    `str(score)` is the line that is printed, in sacrebleu's layout: `BLEU|signature = value (detail)`.
    """

    name: str
    """The metric's printed name: `BLEU`, `chrF2`, `WER` ..."""
    value: float
    """In percent: 0 to 100, and above 100 where insertions can exceed the reference."""
    signature: str
    """Everything that changes the value, as `key:value` joined by `|`."""
    counts: dict[str, int | float | list[int]]
    """What was counted to get the value; empty where a metric has no counts to tell."""
    higher_is_better: bool
    detail: str = ""
    """The counts in words, for people."""

    def __str__(self) -> str:
        return f"{self.name}|{self.signature} = {self.value:.2f} {self.detail}".rstrip()


class Metric(Protocol):
    """Scores a corpus. Made once for each set of options; `score` can be called many times."""

    name: str
    higher_is_better: bool

    def score(self, hypotheses: Lines, references: References) -> Score:
        """Score `hypotheses` against `references`, one list of lines for each reference."""
        ...


def signature(references: References, lowercase: bool, **choices: str) -> str:
    """The signature of a metric of our own, in sacrebleu's style: `nrefs:1|case:mixed|...|version:s2s-0.1.0`."""
    case = "lc" if lowercase else "mixed"
    pairs = {"nrefs": len(references), "case": case, **choices, "version": f"s2s-{__version__}"}
    return "|".join(f"{key}:{value}" for key, value in pairs.items())


def normalise(line: str, lowercase: bool) -> str:
    """A line without the white space around it, lower-cased if asked."""
    return (line.lower() if lowercase else line).strip()
