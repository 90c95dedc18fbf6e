"""A metric: lines whose first word is right."""

from s2s.scoring.metric import Lines, References, Score, interval, signature


class FirstWord:
    """Share of the lines whose first word is that of a reference."""

    name = "FirstWord"
    higher_is_better = True

    def __init__(self, lowercase: bool, tokenizer: str):
        self.lowercase = lowercase

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """As `Metric.score`."""
        right = [
            self._first(hypothesis) in {self._first(choice) for choice in choices}
            for hypothesis, *choices in zip(hypotheses, *references, strict=True)
        ]
        made = signature(references, self.lowercase, resamples)
        value, ends = 100 * sum(right) / len(right), interval(right, [1] * len(right), resamples)
        return Score(self.name, value, made, {"right": sum(right)}, self.higher_is_better, interval=ends)

    def _first(self, line: str) -> str:
        words = (line.lower() if self.lowercase else line).split()
        return words[0] if words else ""
