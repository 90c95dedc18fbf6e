"""Accuracy of lines, and of tokens at their positions."""

from collections.abc import Sequence

from s2s.scoring.metric import Ratio


class ExactMatch(Ratio):
    """Share of lines that equal one of their references exactly, except for white space around the line."""

    name = "EM"

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """1 if the line is right and otherwise 0; and 1."""
        return int(hypothesis in references), 1

    def counts(self, part: float, whole: float) -> dict:
        """See `Ratio.counts`."""
        return {"lines_right": part, "lines": whole}


class TokenAccuracy(Ratio):
    """Share of tokens (split at white space) that the reference has at the same position.

    A missing token and a superfluous one are both wrong: the value is
    `100 * sum(right) / sum(max(length of hypothesis, length of reference))`. With several references, each line is
    compared with the one that agrees best, and with the first of these if they tie.
    """

    name, unit, empty, choices = "TokenAccuracy", "tokens", 100.0, {"tok": "space"}

    def line(self, hypothesis: str, references: Sequence[str]) -> tuple[float, float]:
        """Number of right tokens, and of all positions."""
        tokens = hypothesis.split()
        counted = (self._places(tokens, reference.split()) for reference in references)
        return max(counted, key=lambda pair: pair[0] / pair[1] if pair[1] else 1.0)

    def counts(self, part: float, whole: float) -> dict:
        """See `Ratio.counts`."""
        return {"tokens_right": part, "tokens": whole}

    @staticmethod
    def _places(tokens: list[str], reference: list[str]) -> tuple[int, int]:
        right = sum(token == wanted for token, wanted in zip(tokens, reference, strict=False))
        return right, max(len(tokens), len(reference))
