"""COMET and BLEURT, metrics that a neural model computes, by their own packages. Only these metrics import PyTorch or
TensorFlow."""

from collections.abc import Sequence

from s2s.errors import UserError
from s2s.scoring.metric import Lines, References, Score, interval, signature
from s2s.scoring.packages import package

COMET = "Unbabel/wmt22-comet-da"
BLEURT_COMMAND = "pip install git+https://github.com/google-research/bleurt.git"


class Comet:
    """COMET (Rei et al. 2020): the mean over the lines of the model's score, times 100. It needs the source lines.
    `model` is a name that the package downloads, by default wmt22-comet-da, or the path of a checkpoint."""

    name, higher_is_better, needs = "COMET", True, ("source", "model?")

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """`tokenizer` is BLEU's and is ignored. Raises UserError: unbabel-comet is not installed."""
        self.lowercase, self.comet = lowercase, package("comet", "comet", "pip install unbabel-comet")

    def score(self, hypotheses: Lines, references: References, resamples: int = 0, *, source: Lines = (),
              model: str | None = None) -> Score:  # fmt: skip
        """See `Metric.score`. Raises UserError: there are several references, or the model cannot be loaded."""
        import os

        import torch

        (lines,) = _single("comet", references)
        name = model or COMET
        try:
            scorer = self.comet.load_from_checkpoint(name if os.path.exists(name) else self.comet.download_model(name))
        except Exception as error:  # the package has no errors of its own
            raise UserError(f"model={name}: comet cannot load it: {error}") from error
        rows = [
            {"src": src, "mt": mt, "ref": ref}
            for src, mt, ref in zip(source, *_cased(self.lowercase, hypotheses, lines), strict=True)
        ]
        scores = scorer.predict(rows, batch_size=16, gpus=int(torch.cuda.is_available()), progress_bar=False).scores
        return _mean(self, scores, references, self.lowercase, resamples, name)


class Bleurt:
    """BLEURT (Sellam et al. 2020): the mean over the lines of the model's score, times 100. `model` is the folder of a
    checkpoint."""

    name, higher_is_better, needs = "BLEURT", True, ("model",)

    def __init__(self, lowercase: bool, tokenizer: str) -> None:
        """`tokenizer` is BLEU's and is ignored. Raises UserError: bleurt is not installed."""
        self.lowercase, self.bleurt = lowercase, package("bleurt", "bleurt.score", BLEURT_COMMAND)

    def score(self, hypotheses: Lines, references: References, resamples: int = 0, *, model: str = "") -> Score:
        """See `Metric.score`. Raises UserError: there are several references, or the model cannot be loaded."""
        (lines,) = _single("bleurt", references)
        try:
            scorer = self.bleurt.BleurtScorer(model)
        except Exception as error:  # the package has no errors of its own
            raise UserError(f"model={model}: bleurt cannot load it: {error}") from error
        mine, theirs = _cased(self.lowercase, hypotheses, lines)
        scores = scorer.score(references=theirs, candidates=mine)
        return _mean(self, scores, references, self.lowercase, resamples, model)


def _single(name: str, references: References) -> References:
    if len(references) > 1:
        raise UserError(f"metric '{name}' takes a single reference; there are {len(references)}")
    return references


def _cased(lowercase: bool, *sides: Lines) -> list[list[str]]:
    return [[line.lower() if lowercase else line for line in side] for side in sides]


def _mean(metric: Comet | Bleurt, scores: Sequence[float], references: References, lowercase: bool, resamples: int,
          model: str) -> Score:  # fmt: skip
    parts = [(float(score), 1.0) for score in scores]
    made = signature(references, lowercase, resamples, model=model)
    value, ends = 100 * sum(part for part, _ in parts) / len(parts), None
    if resamples:
        ends = interval([part for part, _ in parts], [1.0] * len(parts), resamples)
    return Score(metric.name, value, made, {"lines": len(parts)}, True, f"({len(parts)} lines)", ends, parts)
