"""Compares systems with a baseline on the same lines: paired bootstrap (Koehn 2004) and paired approximate
randomisation (Noreen 1989; Riezler and Maxwell 2005).

BLEU, chrF and TER are compared by sacrebleu's own tests. Other metrics are ratios of sums over lines, and both tests
resample the numerators and denominators of the lines. A p-value is the probability that two systems of equal quality
differ at least as much as these.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from s2s import scoring
from s2s.errors import UserError
from s2s.scoring.details import columns
from s2s.scoring.metric import AT_A_TIME, SEED, Lines, References, ratio, without_punctuation
from s2s.scoring.translation import SacreBleu

SIGNIFICANT = 0.05
TESTS = ("bootstrap", "randomisation")


@dataclasses.dataclass(frozen=True)
class System:
    """A system in a comparison.

    Attributes:
        value: Its score.
        interval: Ends of the 95% confidence interval of the score, by bootstrap; None: not asked for.
        bootstrap: p-value against the baseline by paired bootstrap; None for the baseline, or not asked for.
        randomisation: p-value by paired approximate randomisation, likewise.
    """

    value: float
    interval: tuple[float, float] | None = None
    bootstrap: float | None = None
    randomisation: float | None = None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Systems beside each other by one metric.

    Attributes:
        name: The metric's printed name.
        signature: How the scores and the p-values were computed.
        higher_is_better: Whether higher scores are better.
        systems: By name; the baseline is the first.
    """

    name: str
    signature: str
    higher_is_better: bool
    systems: dict[str, System]


def compare(name: str, systems: Mapping[str, Lines], references: References, resamples: int, trials: int,
            lowercase: bool = False, tokenizer: str = "13a", remove_punctuation: bool = False,
            inputs: Mapping[str, Any] | None = None) -> Comparison:  # fmt: skip
    """Compare systems with a baseline by one metric.

    Args:
        name: A metric of `registry`.
        systems: Hypotheses by the name of their system; the first is the baseline.
        references: See `scoring.score`.
        resamples: Number of bootstrap resamples; 0: no paired bootstrap and no intervals.
        trials: Number of trials of approximate randomisation; 0: none.
        lowercase, tokenizer, remove_punctuation, inputs: See `scoring.score`.

    Raises:
        UserError: see `scoring.score`; or systems cannot be compared by this metric.
    """
    metric = scoring.metric(name, lowercase, tokenizer)
    if isinstance(metric, SacreBleu):
        if remove_punctuation:
            systems = {system: list(map(without_punctuation, lines)) for system, lines in systems.items()}
            references = [list(map(without_punctuation, lines)) for lines in references]
        compared = _by_sacrebleu(metric, systems, references, resamples, trials)
        removed = "|punctuation:removed" if remove_punctuation else ""
        return dataclasses.replace(compared, signature=compared.signature + removed)
    scores = {
        system: scoring.score(name, lines, references, lowercase, tokenizer, remove_punctuation, resamples, inputs)
        for system, lines in systems.items()
    }
    first, *others = scores.values()
    if not all(score.parts for score in scores.values()):
        raise UserError(f"metric '{name}' has no values of single lines, and systems cannot be compared by it")
    rows = [System(first.value, first.interval)]
    for score in others:
        sides = first.parts, score.parts
        rows.append(
            System(score.value, score.interval, paired_bootstrap(*sides, resamples) if resamples else None,
                   paired_randomisation(*sides, trials) if trials else None)
        )  # fmt: skip
    drawn = f"|ar:{trials}" * bool(trials) + f"|seed:{SEED}" * bool(trials and not resamples)
    return Comparison(first.name, first.signature + drawn, first.higher_is_better, dict(zip(scores, rows, strict=True)))


def _by_sacrebleu(metric: SacreBleu, systems: Mapping[str, Lines], references: References, resamples: int,
                  trials: int) -> Comparison:  # fmt: skip
    from sacrebleu.significance import PairedTest

    baseline = next(iter(systems.values()))
    named = list(systems.items())
    results, signatures = {}, {}
    for kind, count in (("bs", resamples), ("ar", trials)):
        if count:
            test = PairedTest(named, {metric.name: metric.metric}, references, kind, count)
            made, table = test()
            ((title, signature),) = made.items()
            results[kind], signatures[kind] = table[title], signature.format()
    if not results:
        scores = {system: metric.score(lines, references) for system, lines in named}
        first = next(iter(scores.values()))
        rows = {system: System(score.value) for system, score in scores.items()}
        return Comparison(first.name, first.signature, metric.higher_is_better, rows)
    rows = {}
    for number, (system, lines) in enumerate(named):
        row = {kind: table[number] for kind, table in results.items()}
        # For equal hypotheses sacrebleu has the lowest p-value that there is.
        p = (
            {kind: 1.0 if list(lines) == list(baseline) else cell.p_value for kind, cell in row.items()}
            if number
            else {}
        )
        bootstrap = row.get("bs")
        ends = (bootstrap.mean - bootstrap.ci, bootstrap.mean + bootstrap.ci) if bootstrap else None
        rows[system] = System(
            float(next(iter(row.values())).score), ends and (float(ends[0]), float(ends[1])), p.get("bs"), p.get("ar")
        )
    drawn = f"|ar:{trials}" if len(signatures) == 2 else ""
    return Comparison(title, next(iter(signatures.values())) + drawn, metric.higher_is_better, rows)


Parts = Sequence[tuple[float, float]]


def paired_bootstrap(baseline: Parts, system: Parts, resamples: int) -> float:
    """The p-value of paired bootstrap, as sacrebleu computes it: the share of resamples whose absolute difference lies
    above the mean one by at least the difference of the systems.

    Args:
        baseline, system: Numerator and denominator of each line.
        resamples: Number of resamples.
    """
    import numpy as np  # imported here, since few calls need it

    a, b = np.asarray(baseline, float), np.asarray(system, float)
    rng, count, differences = np.random.default_rng(SEED), len(a), []
    for first in range(0, resamples, size := max(1, AT_A_TIME // count)):
        rows = rng.integers(count, size=(min(size, resamples - first), count))
        differences.append(np.abs(_value(b[rows].sum(1)) - _value(a[rows].sum(1))))
    drawn = np.concatenate(differences)
    return _p_value(drawn - drawn.mean(), abs(_value(b.sum(0)) - _value(a.sum(0))))


def paired_randomisation(baseline: Parts, system: Parts, trials: int) -> float:
    """The p-value of paired approximate randomisation: the share of trials, in each of which the two outputs of every
    line are exchanged or not by chance, whose absolute difference is at least that of the systems.

    Args:
        baseline, system: Numerator and denominator of each line.
        trials: Number of trials.
    """
    import numpy as np  # imported here, since few calls need it

    a, b = np.asarray(baseline, float), np.asarray(system, float)
    rng, count, differences = np.random.default_rng(SEED), len(a), []
    total = a.sum(0) + b.sum(0)
    for first in range(0, trials, size := max(1, AT_A_TIME // count)):
        exchanged = rng.integers(2, size=(min(size, trials - first), count), dtype=np.int8)
        one = b.sum(0) + exchanged.astype(float) @ (a - b)
        differences.append(np.abs(_value(one) - _value(total - one)))
    return _p_value(np.concatenate(differences), abs(_value(b.sum(0)) - _value(a.sum(0))))


def _value(sums):
    return ratio(sums[..., 0], sums[..., 1])


def _p_value(drawn, difference) -> float:
    """Share of the drawn differences that reach the real one, which counts as drawn too, and whatever the rounding."""
    return float(((drawn >= difference - 1e-9).sum() + 1) / (len(drawn) + 1))


def as_text(comparison: Comparison) -> str:
    """A comparison as a table, with the signature below it."""
    first = next(iter(comparison.systems))
    with_interval = any(system.interval for system in comparison.systems.values())
    tests = [kind for kind in TESTS if any(getattr(s, kind) is not None for s in comparison.systems.values())]
    rows = [["system", comparison.name, *["95% interval"] * with_interval, *(f"p ({kind})" for kind in tests)]]
    for name, system in comparison.systems.items():
        ends = ["[{:.2f}, {:.2f}]".format(*system.interval)] if system.interval else [""] * with_interval
        p = (getattr(system, kind) for kind in tests)
        title = f"{name} (baseline)" if name == first else name
        rows.append([title, f"{system.value:.2f}", *ends, *("" if value is None else _marked(value) for value in p)])
    return f"{columns(rows)}\n{comparison.name}|{comparison.signature}\n"


def note(comparisons: Sequence[Comparison]) -> str:
    """The explanation of the marks of tables, if there is a mark."""
    p = [p for c in comparisons for s in c.systems.values() for p in (s.bootstrap, s.randomisation) if p is not None]
    return f"* differs from the baseline with p < {SIGNIFICANT}\n" if any(value < SIGNIFICANT for value in p) else ""


def _marked(p: float) -> str:
    return f"{p:.4f}{'*' * (p < SIGNIFICANT)}"
