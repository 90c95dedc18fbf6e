"""Error rates by edit distance: words, characters, phonemes, and whole lines.

An error rate is `100 * (substitutions + deletions + insertions) / reference length`; both are summed over the corpus
before dividing. The edits of a line are those of an alignment with the fewest edits (Levenshtein 1966). The total is
the same for all such alignments, but the numbers of substitutions, deletions and insertions may differ.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Sequence

from rapidfuzz.distance import Editops, Levenshtein

from s2s.config import signals
from s2s.scoring.metric import Lines, References, Score, interval, normalise, signature

LONG = 10**8  # length of reference x length of hypothesis; below this an alignment takes a fraction of a second


@dataclasses.dataclass
class Edits:
    """Edits that turn references into hypotheses, over one line or many."""

    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    reference_length: int = 0
    lines_wrong: int = 0
    lines: int = 0

    @property
    def total(self) -> int:
        """Substitutions, deletions and insertions together."""
        return self.substitutions + self.deletions + self.insertions

    def add(self, line: "Edits") -> None:
        """Add the edits of another line."""
        for field in dataclasses.fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(line, field.name))

    def __str__(self) -> str:
        return (f"(S = {self.substitutions} D = {self.deletions} I = {self.insertions} "
                f"ref_len = {self.reference_length} wrong_lines = {self.lines_wrong}/{self.lines})")  # fmt: skip


def operations(reference: Sequence, hypothesis: Sequence) -> Editops:
    """An alignment with the fewest edits. It takes minutes for very long lines; Ctrl-C then ends the process."""
    long = len(reference) * len(hypothesis) > LONG
    with signals.at_once() if long else contextlib.nullcontext():
        return Levenshtein.editops(reference, hypothesis)


def edits(reference: Sequence, hypothesis: Sequence) -> Edits:
    """The smallest set of edits that turns the units of a reference line into those of its hypothesis."""
    if reference == hypothesis:
        return Edits(reference_length=len(reference), lines=1)
    kinds = Counter(operation.tag for operation in operations(reference, hypothesis))
    return Edits(kinds["replace"], kinds["delete"], kinds["insert"], len(reference), 1, 1)


class ErrorRate:
    """Error rate over the units into which `units` splits a line. Base class of the four metrics below."""

    name: str
    higher_is_better = False
    tokenizer = "space"

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """`tokenizer` is BLEU's and is ignored."""
        self.lowercase = lowercase

    def units(self, line: str) -> Sequence:
        """Split a line into units: its words, at white space."""
        return line.split()

    def value(self, corpus: Edits) -> float:
        """The rate in percent. With empty references it is 0 if there are no edits and otherwise 100, as for TER."""
        return 100 * corpus.total / corpus.reference_length if corpus.reference_length else 100.0 * (corpus.total > 0)

    def parts(self, line: Edits) -> tuple[int, int]:
        """Numerator and denominator of a line's rate, for the interval."""
        return line.total, line.reference_length

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """See `Metric.score`. With several references, each line is compared with the one that has the fewest edits,
        and with the first of these if they tie."""
        corpus, parts = Edits(), []
        for hypothesis, *choices in zip(hypotheses, *references, strict=True):
            units = self.units(normalise(hypothesis, self.lowercase))
            lines = (self.units(normalise(choice, self.lowercase)) for choice in dict.fromkeys(choices))
            best = min((edits(line, units) for line in lines), key=lambda line: line.total)
            corpus.add(best)
            parts.append(self.parts(best))
        made = signature(references, self.lowercase, resamples, tok=self.tokenizer, norm="no")
        counts, ends = dataclasses.asdict(corpus), interval(*zip(*parts, strict=True), resamples)
        return Score(self.name, self.value(corpus), made, counts, self.higher_is_better, str(corpus), ends, parts)


class WordErrorRate(ErrorRate):
    """WER: word error rate. Words are split at white space; case and punctuation count."""

    name = "WER"


class PhonemeErrorRate(ErrorRate):
    """PER: phoneme error rate, also for any other tokens with white space between them."""

    name = "PER"


class CharacterErrorRate(ErrorRate):
    """CER: character error rate. Characters are Unicode code points, spaces between words included."""

    name = "CER"
    tokenizer = "char"

    def units(self, line: str) -> Sequence:
        """The line itself: a string is a sequence of its characters."""
        return line


class SentenceErrorRate(ErrorRate):
    """SER: sentence error rate, the share of lines with at least one wrong word. If a line holds the phonemes of one
    word, this is also called word error rate."""

    name = "SER"

    def parts(self, line: Edits) -> tuple[int, int]:
        """1 if the line is wrong and otherwise 0; and 1."""
        return line.lines_wrong, 1

    def value(self, corpus: Edits) -> float:
        """Wrong lines in percent of all lines."""
        return 100 * corpus.lines_wrong / corpus.lines
