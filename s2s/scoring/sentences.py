"""Scores of single sentences, by the metrics of a corpus."""

from collections.abc import Callable

from s2s.scoring import metric, needs


def sentence_scores(name: str) -> Callable[[list[str], list[str]], list[float]]:
    """A function of hypotheses and references, line by line, that returns the score of each line, in percent.

    BLEU of a line is smoothed and of its effective order, as sacrebleu's `sentence_bleu`. By other metrics it is the
    score of a corpus of one line.

    Raises:
        UserError: there is no such metric, or it needs more than hypotheses and references.
    """
    from s2s.scoring.translation import SacreBleu  # here, since help imports the terms of the loss but not sacrebleu

    scorer = metric(name)
    needs(name, scorer, {})
    if isinstance(scorer, SacreBleu) and name == "bleu":
        scorer.metric.effective_order = True

    def scores(hypotheses: list[str], references: list[str]) -> list[float]:
        pairs = zip(hypotheses, references, strict=True)
        if isinstance(scorer, SacreBleu):
            return [float(scorer.metric.sentence_score(text, [reference]).score) for text, reference in pairs]
        return [scorer.score([text], [[reference]]).value for text, reference in pairs]

    return scores
