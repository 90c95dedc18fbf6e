"""Scaling laws: the loss of a sweep as a function of the sizes of encoder and decoder.

Paper: Ghorbani et al., "Scaling Laws for Neural Machine Translation", ICLR 2022, https://arxiv.org/abs/2109.07740.

The law is L = a (E0 / E)^p (D0 / D)^q + c, where E and D are the numbers of parameters of encoder and decoder without
embeddings and output, and E0 and D0 their geometric means over the runs. c is the loss that no size gets below. The
share of the encoder in a model of a given size is best at p / (p + q). L is a run's best value of a metric of
validation, by default `nll`. The fit is least squares by the Levenberg-Marquardt method, from the best point of a grid
of exponents. Intervals of 95% come from the curvature of the sum of squares and Student's t. Where the sizes of both
sides change together, or one side has one size only, their exponents cannot be told apart: the law is then
L = a (N0 / N)^p + c with N = E + D.

Use: s2s-plot fit=scaling runs/sweep/a runs/sweep/b runs/sweep/c runs/sweep/d runs/sweep/e

Left out: separate losses of texts that were originally in the source and in the target language, unless a sweep has a
metric for each (`metric=NAME`).
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from s2s import figures
from s2s.checkpoint import runs
from s2s.errors import UserError
from s2s.scoring.details import columns
from s2s.training.metrics import read_metrics

GRID = (0.03, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5)  # exponents that a fit may begin with
ITERATIONS = 1000
LEVEL = 0.95


@dataclasses.dataclass
class Point:
    """A run.

    Attributes:
        run: Its folder.
        encoder, decoder: E and D.
        loss: L.
    """

    run: str
    encoder: int
    decoder: int
    loss: float


@dataclasses.dataclass
class Law:
    """A fitted law.

    Attributes:
        values: a, the exponents, and c.
        errors: The half-widths of their intervals; infinite: the data do not determine it.
        reference: The sizes that stand for 1: [E0, D0], or [N0].
        fitted: The law's loss of each run, [runs].
    """

    values: np.ndarray
    errors: np.ndarray
    reference: np.ndarray
    fitted: np.ndarray


def read(paths: list[str], metric: str) -> list[Point]:
    """The sizes and the best losses of runs.

    Raises:
        UserError: a run has no checkpoint, no encoder or decoder, or no such metric.
    """
    points = []
    for path in paths:
        if not (Path(path) / "metrics.jsonl").is_file():
            raise UserError(f"{path}: not a run (no metrics.jsonl){runs.inside(Path(path))}")
        events = read_metrics(Path(path) / "metrics.jsonl", [])
        values = [event[metric] for event in events if event["kind"] == "valid" and metric in event]
        values = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
        if not values:
            raise UserError(f"{path}: no validation has {metric}; metric= chooses another one")
        sizes = _sizes(path)
        if not sizes["encoder"] or not sizes["decoder"]:
            raise UserError(f"{path}: fit=scaling requires an encoder and a decoder")
        points.append(Point(path, sizes["encoder"], sizes["decoder"], min(values)))
    return points


def _sizes(path: str) -> dict[str, int]:
    """Number of parameters of the encoder and the decoder, from the newest checkpoint of a run."""
    from safetensors import SafetensorError, safe_open

    from s2s.models.parts import part_of

    steps = runs.steps(Path(path))
    if not steps:
        raise UserError(f"{path}: not a run with a checkpoint{runs.inside(Path(path))}")
    file, sizes = steps[-1] / runs.WEIGHTS, {"encoder": 0, "decoder": 0}
    try:
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                if part_of(name) in sizes:
                    sizes[part_of(name)] += math.prod(tensors.get_slice(name).get_shape())
    except (OSError, SafetensorError) as error:
        raise UserError(f"{file}: damaged or unreadable: {error}") from error
    return sizes


def fit(points: list[Point]) -> Law:
    """The law that fits runs best.

    Raises:
        UserError: there are too few runs or sizes, or the losses follow no such law.
    """
    sizes = np.array([[point.encoder, point.decoder] for point in points], float)
    if np.linalg.matrix_rank(np.log(sizes) - np.log(sizes).mean(0), tol=1e-3) < 2:
        sizes = sizes.sum(1, keepdims=True)
    reference = np.exp(np.log(sizes).mean(0))
    x, y = np.log(reference / sizes), np.array([point.loss for point in points])
    different, needed = len(np.unique(sizes, axis=0)), sizes.shape[1] + 3
    if different < needed - 1 or len(points) < needed:
        raise UserError(f"fit=scaling: {len(points)} runs of {different} sizes; {needed} runs of at least "
                        f"{needed - 1} sizes are needed")  # fmt: skip
    values = _solve(x, y)
    errors = _half_widths(values, x, y)
    return Law(values, errors, reference, _law(values, x))


def _law(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The losses [runs] of parameters (a, exponents, c); x: logarithms of reference / size, [runs, sides]."""
    return values[0] * np.exp(x @ values[1:-1]) + values[-1]


def _slopes(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Derivatives of `_law` by its parameters, [runs, parameters]."""
    power = np.exp(x @ values[1:-1])
    return np.column_stack([power, values[0] * power[:, None] * x, np.ones(len(x))])


def _solve(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The parameters with the least sum of squares. Raises UserError if it has no minimum."""
    best, least = None, math.inf
    for exponents in np.stack(np.meshgrid(*[GRID] * x.shape[1]), -1).reshape(-1, x.shape[1]):
        basis = np.column_stack([np.exp(x @ exponents), np.ones(len(x))])  # given these, a and c are linear
        linear = np.linalg.lstsq(basis, y, rcond=None)[0]
        if linear[0] > 0 and (squares := ((basis @ linear - y) ** 2).sum()) < least:
            best, least = np.array([linear[0], *exponents, linear[1]]), squares
    if best is None:
        raise UserError("fit=scaling: the loss does not fall with size")
    damping = 1e-3
    for _ in range(ITERATIONS):
        slopes, rest = _slopes(best, x), y - _law(best, x)
        square = slopes.T @ slopes
        step = np.linalg.lstsq(square + damping * np.diag(np.diag(square)), slopes.T @ rest, rcond=None)[0]
        tried = best + step
        squares = ((y - _law(tried, x)) ** 2).sum()
        if squares <= least:
            settled = least - squares <= 1e-14 * least
            best, least, damping = tried, squares, max(damping / 3, 1e-12)
            if settled and np.abs(step).max() <= 1e-9 * np.abs(best).max():
                break
        elif (damping := damping * 4) > 1e12:
            break
    if best[0] <= 0 or not np.isfinite(best).all() or np.abs(best[1:-1]).max() > 20:
        raise UserError("fit=scaling: the losses follow no such law; sizes that differ more may help")
    return best


def _half_widths(values: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Half-widths of the intervals of parameters."""
    slopes, free = _slopes(values, x), len(y) - len(values)
    variance = ((y - _law(values, x)) ** 2).sum() / free
    square = slopes.T @ slopes
    if np.linalg.cond(square) > 1e16:
        return np.full(len(values), math.inf)
    return students_t(free) * np.sqrt(np.diag(np.linalg.inv(square)) * variance)


def students_t(freedom: int) -> float:
    """The value that Student's t with so many degrees of freedom is within, on both sides, with probability LEVEL."""
    angles = np.linspace(0, math.pi / 2, 200_001)  # t = sqrt(freedom) tan(angle) has the density cos^(freedom - 1)
    density = np.cos(angles) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * math.tan(np.interp(LEVEL, share / share[-1], angles)))


def to_text(points: list[Point], law: Law, metric: str) -> str:
    """The law with its intervals, and the runs in a table."""
    both = len(law.reference) == 2
    names = ["a", *(("p", "q") if both else ("p",)), "c"]
    sizes = " ".join(f"({side}={size:,.0f} / {side[0]})^{name}" for side, size, name in
                     zip(("E0", "D0") if both else ("N0",), law.reference, "pq", strict=False))  # fmt: skip
    lines = [f"{metric} = a {sizes} + c, with intervals of {LEVEL:.0%}"]
    lines += [f"  {name} = {value:.4g} +- {error:.2g}" for name, value, error in
              zip(names, law.values, law.errors, strict=True)]  # fmt: skip
    if both:
        p, q = law.values[1:3]
        share = f"best share of the encoder: p / (p + q) = {p / (p + q):.2f}" if p > 0 < q else (
            "one exponent is not positive: there is no best share of the encoder")  # fmt: skip
        lines.append(share)
    else:
        lines.append("the sizes of encoder and decoder change together: N = E + D")
    rows = [["run", "encoder", "decoder", metric, "law"]]
    rows += [[point.run, f"{point.encoder:,}", f"{point.decoder:,}", f"{point.loss:.4f}", f"{value:.4f}"]
             for point, value in zip(points, law.fitted, strict=True)]  # fmt: skip
    return "\n".join([*lines, "", columns(rows)])


def to_picture(points: list[Point], law: Law, metric: str, file: str) -> None:
    """Draw the loss of each run over the law's power of its size into a file. Raises UserError as `figures.save`."""
    x = (law.fitted - law.values[-1]) / law.values[0]
    picture = figures.figure(6.4, 4.8)
    ax = picture.subplots()
    grid = np.linspace(0, x.max() * 1.05, 2)
    ax.plot(grid, law.values[0] * grid + law.values[-1], color=figures.COLORS[0], label="law")
    ax.plot(x, [point.loss for point in points], "o", color=figures.COLORS[5], label="runs")
    power = "(E0 / E)^p (D0 / D)^q" if len(law.reference) == 2 else "(N0 / N)^p"
    ax.set(xlim=(0, None), xlabel=power, ylabel=figures.literal(metric))
    ax.grid(color="#dddddd")
    ax.legend(frameon=False)
    figures.save(picture, file, [])
