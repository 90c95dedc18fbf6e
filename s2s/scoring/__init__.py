"""Scores of hypotheses against references: BLEU, chrF, TER, WER, CER, PER, exact match. No torch import.

>>> from s2s.scoring import score
>>> print(score("per", ["K AE T"], [["K AH T"]]))
PER|nrefs:1|case:mixed|tok:space|norm:no|version:s2s-0.1.0 = 33.33 (S = 1 D = 0 I = 0 ref_len = 3 wrong_lines = 1/1)
"""

import dataclasses

from s2s import registry
from s2s.scoring.metric import Lines, Metric, References, Score, without_punctuation

TOKENIZERS = ("13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "spm", "flores101", "flores200", "none")
"""BLEU's tokenizers, by sacrebleu's names. They are listed here so that sacrebleu need not be imported to know them."""


def metric(name: str, lowercase: bool = False, tokenizer: str = "13a") -> Metric:
    """Make a metric by its name.

    Args:
        name: A metric of `registry`.
        lowercase: Compare lower-cased text. TER always ignores case, as TERCOM does.
        tokenizer: BLEU's tokenizer, one of `TOKENIZERS`; the other metrics ignore it.

    Raises:
        UserError: there is no such metric, or the tokenizer cannot be used.
    """
    return registry.find("metric", name)(lowercase, tokenizer)


def higher_is_better(name: str) -> bool:
    """Whether higher values of a metric are better. Raises UserError if there is no such metric."""
    return metric(name).higher_is_better


def score(
    name: str,
    hypotheses: Lines,
    references: References,
    lowercase: bool = False,
    tokenizer: str = "13a",
    remove_punctuation: bool = False,
    resamples: int = 0,
) -> Score:
    """Score a corpus with one metric.

    Args:
        name: A metric of `registry`.
        hypotheses: One string for each line.
        references: One list of lines for each reference translation, each as long as `hypotheses`.
        lowercase: See `metric`.
        tokenizer: See `metric`.
        remove_punctuation: See `metric.without_punctuation`; the signature mentions it.
        resamples: Number of bootstrap resamples for the interval, see `Metric.score`.

    Raises:
        ValueError: there are no lines or no references, or lists differ in length.
        UserError: see `metric`.
    """
    if not hypotheses or not references or any(len(lines) != len(hypotheses) for lines in references):
        lengths = ", ".join(str(len(lines)) for lines in references)
        raise ValueError(f"{len(hypotheses)} hypotheses against references of {lengths or 'no'} lines")
    scorer = metric(name, lowercase, tokenizer)
    if not remove_punctuation:
        return scorer.score(hypotheses, references, resamples)
    hypotheses, *references = ([without_punctuation(line) for line in lines] for lines in (hypotheses, *references))
    result = scorer.score(hypotheses, references, resamples)
    return dataclasses.replace(result, signature=f"{result.signature}|punctuation:removed")
