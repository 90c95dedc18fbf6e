"""The interface of metrics, the score that they return, and functions that they share."""

import dataclasses
import unicodedata
from collections.abc import Sequence
from typing import ClassVar, Protocol

from s2s import __version__

INSIDE = "'\u2019-"  # punctuation that is part of a word
Lines = Sequence[str]
References = Sequence[Lines]


@dataclasses.dataclass(frozen=True)
class Score:
    """A corpus-level score, and how it was computed.

    `str(score)` is the line that is printed, in sacrebleu's layout: `BLEU|signature = value (detail)`.
    """

    name: str
    """The metric's printed name: `BLEU`, `chrF2`, `WER` ..."""
    value: float
    """In percent: 0 to 100; error rates can exceed 100 because of insertions."""
    signature: str
    """All settings that change the value, as `key:value` joined by `|`."""
    counts: dict[str, int | float | list[int]]
    """Counts from which the value is computed; empty if a metric reports none."""
    higher_is_better: bool
    detail: str = ""
    """The counts as text."""
    interval: tuple[float, float] | None = None
    """Ends of the 95% confidence interval of the value, by bootstrap, if it was asked for."""
    parts: Sequence[tuple[float, float]] = dataclasses.field(default=(), repr=False, compare=False)
    """Numerator and denominator of each line: the value is `ratio` of their sums. Empty if a metric is no such ratio;
    then systems cannot be compared by it."""

    def __str__(self) -> str:
        interval = "" if self.interval is None else "[{:.2f}, {:.2f}] ".format(*self.interval)
        return f"{self.name}|{self.signature} = {self.value:.2f} {interval}{self.detail}".rstrip()


class Metric(Protocol):
    """Scores a corpus. An instance has fixed options; `score` can be called many times.

    A metric that needs more than hypotheses and references has an attribute `needs`, a tuple of names of `INPUTS`.
    `score` gets these as keyword arguments. One that it can do without has a question mark behind its name.
    """

    name: str
    higher_is_better: bool

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """Score `hypotheses` against `references`: one list of lines for each reference translation. With
        `resamples` > 0 the score has a confidence interval from this many bootstrap resamples of the lines."""
        ...


INPUTS = ("source", "language", "model")
"""What a metric can need besides hypotheses and references: the source lines, the code of the language that they should
be in, the name or path of a model that rates lines."""

SEED = 12345  # seed of the resamples, the same as sacrebleu's
AT_A_TIME = 1 << 22  # random numbers that are drawn at a time


def interval(parts: Sequence[float], wholes: Sequence[float], resamples: int) -> tuple[float, float] | None:
    """The 95% confidence interval of `100 * sum(parts) / sum(wholes)`, from the percentiles of bootstrap resamples of
    the lines (Bisani and Ney 2004).

    Args:
        parts: Numerator of each line.
        wholes: Denominator of each line.
        resamples: Number of resamples; 0: no interval.

    Returns:
        The ends of the interval in percent, or None.
    """
    if not resamples:
        return None
    import numpy as np  # imported here, since few calls need it

    part, whole = np.asarray(parts, float), np.asarray(wholes, float)
    rng, count, values = np.random.default_rng(SEED), len(part), []
    for first in range(0, resamples, size := max(1, AT_A_TIME // count)):
        rows = rng.integers(count, size=(min(size, resamples - first), count))
        values.append(ratio(part[rows].sum(1), whole[rows].sum(1)))
    low, high = np.percentile(np.concatenate(values), [2.5, 97.5])
    return float(low), float(high)


def ratio(parts, wholes):
    """`100 * parts / wholes` of two arrays of sums. Where a whole is 0 it is 0 if the part is 0 and otherwise 100."""
    import numpy as np  # imported here, since few calls need it

    return np.where(wholes > 0, 100 * parts / np.where(wholes > 0, wholes, 1), 100.0 * (parts > 0))


class Ratio:
    """Base class of metrics of the form `100 * sum(part) / sum(whole)`, where each line has a part and a whole.

    Attributes:
        empty: The value if all wholes are 0.
        choices: Further pairs of the signature.
        unit: What the wholes count, in the plural.
    """

    name: str
    higher_is_better = True
    empty = 0.0
    choices: ClassVar[dict[str, str]] = {}
    unit = "lines"

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """`tokenizer` is BLEU's and is ignored."""
        self.lowercase = lowercase

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """Part and whole of a line; both sides are normalised."""
        raise NotImplementedError

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """See `Metric.score`."""
        lines = zip(hypotheses, *references, strict=True)
        parts = [
            self.line(hypothesis, choices)
            for hypothesis, *choices in ([normalise(text, self.lowercase) for text in line] for line in lines)
        ]
        part, whole = map(sum, zip(*parts, strict=True))
        made = signature(references, self.lowercase, resamples, **self.choices)
        ends = interval([part for part, _ in parts], [whole for _, whole in parts], resamples)
        detail = f"({part:.10g}/{whole:.10g} {self.unit})"
        return Score(self.name, 100 * part / whole if whole else self.empty, made, self.counts(part, whole),
                     self.higher_is_better, detail, ends, parts)  # fmt: skip

    def counts(self, part: float, whole: float) -> dict[str, int | float | list[int]]:
        """The counts of a score, by name."""
        return {"sum": part, self.unit: whole}


def signature(references: References, lowercase: bool, resamples: int, **choices: str) -> str:
    """The signature of one of s2s's own metrics, in sacrebleu's style: `nrefs:1|case:mixed|...|version:s2s-0.1.0`."""
    drawn = {"bs": resamples, "seed": SEED} if resamples else {}
    case = "lc" if lowercase else "mixed"
    pairs = {"nrefs": len(references), **drawn, "case": case, **choices, "version": f"s2s-{__version__}"}
    return "|".join(f"{key}:{value}" for key, value in pairs.items())


def without_punctuation(line: str) -> str:
    """Remove punctuation (Unicode categories P) from a line, except apostrophes and hyphens inside a word. White space
    between words becomes one space."""
    kept = []
    for place, character in enumerate(line):
        around = line[max(0, place - 1) : place] + line[place + 1 : place + 2]
        inside = character in INSIDE and len(around) == 2 and around.isalnum()
        kept.append(character if inside or not unicodedata.category(character).startswith("P") else " ")
    return " ".join("".join(kept).split())


def normalise(line: str, lowercase: bool) -> str:
    """Remove white space around a line, and lower-case it if asked."""
    return (line.lower() if lowercase else line).strip()
