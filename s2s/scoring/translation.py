"""BLEU, chrF, chrF++ and TER by sacrebleu, with its signatures (Post 2018, arXiv:1804.08771)."""

import dataclasses
from typing import Any

from sacrebleu.metrics import BLEU, CHRF, TER

from s2s.errors import UserError
from s2s.scoring.metric import Lines, References, Score


@dataclasses.dataclass(frozen=True)
class SacreBleu:
    """Adapts one of sacrebleu's metrics to `Metric`."""

    name: str
    metric: Any
    higher_is_better: bool = True

    def score(self, hypotheses: Lines, references: References, resamples: int = 0) -> Score:
        """See `Metric.score`."""
        result = self.metric.corpus_score(hypotheses, references, resamples or 1)
        signature = self.metric.get_signature().format()
        counts, detail = self._counts(result)
        ends = (result._mean - result._ci, result._mean + result._ci) if resamples else None
        return Score(result.name, result.score, signature, counts, self.higher_is_better, detail, ends)

    def _counts(self, result: Any) -> tuple[dict, str]:
        if self.name == "bleu":
            counts = {"matches": list(result.counts), "totals": list(result.totals), "brevity_penalty": result.bp,
                      "hypothesis_length": result.sys_len, "reference_length": result.ref_len}  # fmt: skip
            precisions = "/".join(f"{value:.1f}" for value in result.precisions)
            return counts, (f"{precisions} (BP = {result.bp:.3f} ratio = {result.ratio:.3f} "
                            f"hyp_len = {result.sys_len} ref_len = {result.ref_len})")  # fmt: skip
        if self.name == "ter":
            counts = {"edits": result.num_edits, "reference_length": result.ref_length}
            return counts, f"(edits = {result.num_edits} ref_len = {result.ref_length:g})"
        return {}, ""


def bleu(lowercase: bool, tokenizer: str) -> SacreBleu:
    """BLEU (Papineni et al. 2002). Raises UserError if the tokenizer requires a package or a file that is missing."""
    try:
        return SacreBleu("bleu", BLEU(lowercase=lowercase, tokenize=tokenizer))
    except Exception as error:  # a missing package (MeCab), or a model (flores) that could not be downloaded
        reason = " ".join(str(error).split())
        raise UserError(f"BLEU's tokenizer '{tokenizer}' cannot be used here: {reason}") from error


class Chrf(CHRF):
    """sacrebleu's chrF with scores of one type. There, resamples with matches have scores of float32, and those without
    have 0.0; `statistics.mean` takes only one of both."""

    def _compute_f_score(self, statistics) -> float:
        return float(super()._compute_f_score(statistics))


def chrf(lowercase: bool, tokenizer: str) -> SacreBleu:
    """chrF2: character n-grams to 6 (Popović 2015)."""
    return SacreBleu("chrf", Chrf(lowercase=lowercase))


def chrf_plus_plus(lowercase: bool, tokenizer: str) -> SacreBleu:
    """chrF2++: character n-grams to 6 and word n-grams to 2 (Popović 2017)."""
    return SacreBleu("chrf++", Chrf(lowercase=lowercase, word_order=2))


def ter(lowercase: bool, tokenizer: str) -> SacreBleu:
    """Translation edit rate (Snover et al. 2006), TERCOM's defaults: case is ignored, whatever `lowercase` says."""
    return SacreBleu("ter", TER(), higher_is_better=False)
