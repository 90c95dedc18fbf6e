"""Accuracy of lines, and of tokens at their positions."""

from s2s.scoring.metric import Lines, References, Score, interval, normalise, signature


class ExactMatch:
    """Share of lines that equal one of their references exactly, except for white space around the line."""

    name = "EM"
    higher_is_better = True

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """`tokenizer` is BLEU's and is ignored."""
        self.lowercase = lowercase

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """See `Metric.score`."""
        agree = [
            normalise(hypothesis, self.lowercase) in {normalise(choice, self.lowercase) for choice in choices}
            for hypothesis, *choices in zip(hypotheses, *references, strict=True)
        ]
        right, lines = sum(agree), len(agree)
        counts = {"lines_right": right, "lines": lines}
        made, ends = signature(references, self.lowercase, resamples), interval(agree, [1] * lines, resamples)
        detail = f"({right}/{lines} lines)"
        return Score(self.name, 100 * right / lines, made, counts, self.higher_is_better, detail, ends)


class TokenAccuracy:
    """Share of tokens (split at white space) that the reference has at the same position.

    A missing token and a superfluous one are both wrong: the value is
    `100 * sum(right) / sum(max(length of hypothesis, length of reference))`. With several references, each line is
    compared with the one that agrees best, and with the first of these if they tie.
    """

    name = "TokenAccuracy"
    higher_is_better = True

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """`tokenizer` is BLEU's and is ignored."""
        self.lowercase = lowercase

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """See `Metric.score`."""
        parts = []
        for hypothesis, *choices in zip(hypotheses, *references, strict=True):
            tokens = normalise(hypothesis, self.lowercase).split()
            counted = (self._places(tokens, normalise(choice, self.lowercase).split()) for choice in choices)
            here, of = max(counted, key=lambda pair: pair[0] / pair[1] if pair[1] else 1.0)
            parts.append((here, of))
        right, places = map(sum, zip(*parts, strict=True))
        value = 100 * right / places if places else 100.0
        made = signature(references, self.lowercase, resamples, tok="space")
        counts, detail = {"tokens_right": right, "tokens": places}, f"({right}/{places} tokens)"
        ends = interval(*zip(*parts, strict=True), resamples)
        return Score(self.name, value, made, counts, self.higher_is_better, detail, ends)

    @staticmethod
    def _places(tokens: list[str], reference: list[str]) -> tuple[int, int]:
        """Number of right tokens, and of all positions, of one line."""
        right = sum(token == wanted for token, wanted in zip(tokens, reference, strict=False))
        return right, max(len(tokens), len(reference))
