"""Scores of hypotheses against references: BLEU, chrF, TER, WER, CER, PER, exact match. No torch import.

>>> from s2s.scoring import score
>>> print(score("per", ["K AE T"], [["K AH T"]]))
PER|nrefs:1|case:mixed|tok:space|norm:no|version:s2s-0.1.0 = 33.33 (S = 1 D = 0 I = 0 ref_len = 3 wrong_lines = 1/1)
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from s2s import registry
from s2s.errors import UserError
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
    component = registry.find("metric", name)
    return (component if isinstance(component, type) else metric(name)).higher_is_better


def score(
    name: str,
    hypotheses: Lines,
    references: References,
    lowercase: bool = False,
    tokenizer: str = "13a",
    remove_punctuation: bool = False,
    resamples: int = 0,
    inputs: Mapping[str, Any] | None = None,
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
        inputs: By their names, what metrics can need besides (`s2s.scoring.metric.INPUTS`).

    Raises:
        ValueError: there are no lines or no references, or lists differ in length.
        UserError: see `metric`; or the metric needs an input that is not there.
    """
    if not hypotheses or not references or any(len(lines) != len(hypotheses) for lines in references):
        lengths = ", ".join(str(len(lines)) for lines in references)
        raise ValueError(f"{len(hypotheses)} hypotheses against references of {lengths or 'no'} lines")
    scorer = metric(name, lowercase, tokenizer)
    needed = needs(name, scorer, inputs or {})
    if not remove_punctuation:
        return scorer.score(hypotheses, references, resamples, **needed)
    hypotheses, *references = ([without_punctuation(line) for line in lines] for lines in (hypotheses, *references))
    result = scorer.score(hypotheses, references, resamples, **needed)
    return dataclasses.replace(result, signature=f"{result.signature}|punctuation:removed")


def needs(name: str, scorer: Metric, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that a metric needs besides hypotheses and references. Raises UserError: one is not there."""
    needed = getattr(scorer, "needs", ())
    missing = [key for key in needed if not key.endswith("?") and inputs.get(key) is None]
    if missing:
        raise UserError(f"metric '{name}' needs {' and '.join(f'{key}=' for key in missing)} of s2s-score")
    return {key: inputs.get(key) for key in (key.removesuffix("?") for key in needed)}
