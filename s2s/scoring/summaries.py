"""ROUGE by rouge-score, and F1 of keyphrases: metrics of summaries and of what they are about."""

from collections.abc import Sequence

from s2s.errors import UserError
from s2s.scoring.metric import Lines, Ratio, References, Score
from s2s.scoring.packages import package

SEPARATOR = ";"


class Rouge(Ratio):
    """ROUGE (Lin 2004): the mean over the lines of the F-measure, by the package rouge-score without stemming.

    Of several references, the one with the highest value counts. It reads only digits and the letters a to z, in any
    case.
    """

    kind: str

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """Neither has an effect. Raises UserError: rouge-score is not installed."""
        super().__init__(True, tokenizer)
        module = package(self.kind, "rouge_score.rouge_scorer")
        self.choices = {"tok": "rouge", "stem": "no", "rouge-score": _version("rouge-score")}
        self.scorer = module.RougeScorer([self.kind])

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """See `Metric.score`. Raises UserError: the references have nothing that ROUGE reads."""
        if not any(self.scorer._tokenizer.tokenize(line) for lines in references for line in lines):
            raise UserError(f"metric '{self.kind}': no reference has a letter a to z or a digit, and ROUGE reads "
                            "nothing else; chrf suits every script")  # fmt: skip
        return super().score(hypotheses, references, resamples)

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """The F-measure of the line; and 1."""
        return float(self.scorer.score_multi(references, hypothesis)[self.kind].fmeasure), 1


class Rouge1(Rouge):
    """ROUGE-1: words."""

    name = kind = "rouge1"


class Rouge2(Rouge):
    """ROUGE-2: pairs of words."""

    name = kind = "rouge2"


class RougeL(Rouge):
    """ROUGE-L: the longest common subsequence of words."""

    name = kind = "rougeL"


class KeyphraseF1(Ratio):
    """F1@M of keyphrases (Yuan et al. 2020): the mean over the lines of the F1 of all phrases that are predicted.

    `;` separates the phrases of a line. Case is ignored; words are compared by their Porter stems; a phrase counts
    once. Two lines without phrases agree. With several references, the one with the highest F1 counts.
    """

    name, unit = "KeyphraseF1@M", "lines"

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """Neither has an effect. Raises UserError: nltk, which has the stemmer, is not installed."""
        super().__init__(True, tokenizer)
        self.stem = package("keyphrase_f1", "nltk.stem.porter").PorterStemmer().stem
        self.choices = {"stem": "porter", "sep": SEPARATOR}

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """The highest F1 of the line; and 1."""
        found = self._phrases(hypothesis)
        return max(_f1(found, self._phrases(reference)) for reference in references), 1

    def _phrases(self, line: str) -> set[tuple[str, ...]]:
        phrases = (tuple(map(self.stem, phrase.split())) for phrase in line.split(SEPARATOR))
        return {phrase for phrase in phrases if phrase}


def _f1(found: set, wanted: set) -> float:
    return 2 * len(found & wanted) / (len(found) + len(wanted)) if found or wanted else 1.0


def _version(distribution: str) -> str:
    from importlib.metadata import version

    return version(distribution)
