"""Plots the curves of runs from their metrics.jsonl: loss, metrics of decoded text and throughput by update, as text by
plotext or as a picture by matplotlib."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s2s import figures
from s2s.checkpoint import runs
from s2s.errors import UserError
from s2s.training.metrics import read_metrics

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LOSS, SPEED = "loss per target token", "target tokens/s"
PLAIN = (
    "loss",
    "nll",
    "perplexity",
    "accuracy",
    "seconds_validating",
    "time",
    "update",
    "session",
)  # not from decoded text
SPACE = 0.05  # between the outermost values and the ends of their axis, as a share of their range
OFF_THE_TOP = 0.05  # share of the losses that may lie above the panel, since losses start high
WIDTH, HEIGHT, LINE = 9.6, 3.0, 0.22  # width and height of a panel, and height of a line of its legend, in inches
ROWS = 18  # height of a text panel with its axis, in lines


@dataclasses.dataclass
class Curve:
    """One curve of a panel.

    Attributes:
        run: Number of the run.
        valid: Whether it shows validations; otherwise training.
        points: (update, value), in rising order of updates.
    """

    run: int
    valid: bool
    points: list[tuple[int, float]]


Panels = dict[str, list[Curve]]  # by title


def read(paths: list[str]) -> Panels:
    """Read the curves of runs: training and validation loss, each metric of decoded text (or else accuracy), and the
    throughput.

    Raises:
        UserError: a path has no metrics.jsonl, or nothing was logged yet.
    """
    panels: Panels = {LOSS: []}
    decoded: Panels = {}
    speed = []
    for run, path in enumerate(paths):
        file = Path(path) / "metrics.jsonl"
        if not file.is_file():
            raise UserError(f"{path}: not a run (no metrics.jsonl){runs.inside(Path(path))}")
        events = read_metrics(file, [])
        train, valid = ([e for e in events if e["kind"] == kind] for kind in ("train", "valid"))
        panels[LOSS] += [Curve(run, False, _points(train, "loss")), Curve(run, True, _points(valid, "loss"))]
        names = dict.fromkeys(name for e in valid for name, v in e.items() if _is_number(v) and name not in PLAIN)
        for name in names or ["accuracy"]:
            decoded.setdefault(name, []).append(Curve(run, True, _points(valid, name)))
        speed.append(Curve(run, False, _points(train, "target_tokens_per_second")))
    panels = panels | decoded | {SPEED: speed}
    panels = {title: [curve for curve in curves if curve.points] for title, curves in panels.items()}
    if not any(panels.values()):
        raise UserError(f"{', '.join(paths)}: nothing was logged yet; train.log_updates sets the interval")
    return {title: curves for title, curves in panels.items() if curves}


def to_text(panels: Panels, paths: list[str], width: int) -> str:
    """Draw panels as text, `width` columns wide. Each run is a letter, a capital letter for its validations."""
    import plotext

    parts = []
    for title, curves in panels.items():
        low, high, last = _frame(title, curves)
        plotext.clear_figure()
        plotext.theme("clear")
        plotext.plotsize(max(40, width), ROWS)
        plotext.xlim(0, last)
        plotext.ylim(low, high)
        for curve in curves:
            shown = [(update, value) for update, value in curve.points if low <= value <= high]
            if shown:
                plotext.plot(*zip(*shown, strict=True), marker=_letter(curve))
        drawn = plotext.uncolorize(plotext.build())
        legend = [f"  {_letter(curve)}  {_legend(curve, paths)}" for curve in curves]
        parts += ["", f"{title}, by update", *(line.rstrip() for line in drawn.splitlines()), *legend]
    return "\n".join(parts[1:])


def _letter(curve: Curve) -> str:
    letter = LETTERS[curve.run % len(LETTERS)]
    return letter.upper() if curve.valid else letter


def to_figure(panels: Panels, paths: list[str]):
    """Panels as a figure, one below the other. Each run has a colour; validations have dots. The legends have the last
    values. They are above the panels, and whole."""
    heights = [HEIGHT + LINE * len(curves) for curves in panels.values()]
    picture = figures.figure(WIDTH, sum(heights))
    axes = picture.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        low, high, last = _frame(title, curves)
        for curve in curves:
            dots = "o" if curve.valid or len(curve.points) == 1 else ""
            color = figures.COLORS[curve.run % len(figures.COLORS)]
            ax.plot(*zip(*curve.points, strict=True), color=color, marker=dots, markersize=5,
                    linestyle="--" if curve.valid else "-", label=figures.literal(_legend(curve, paths)))  # fmt: skip
        ax.set(xlim=(-last * SPACE / 5, last * (1 + SPACE / 5)), ylim=(low, high), xlabel="update")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.grid(color="#dddddd")
        ax.ticklabel_format(axis="y", useOffset=False)
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, borderaxespad=0, fontsize="medium",
                  title=title, alignment="left", title_fontproperties={"size": "large"})  # fmt: skip
    return picture


def to_picture(panels: Panels, paths: list[str], file: str | Path) -> None:
    """Draw panels into a file, whose ending chooses its kind: PNG, SVG or PDF. Raises UserError: another ending."""
    figures.save(to_figure(panels, paths), file, paths)


def _legend(curve: Curve, paths: list[str]) -> str:
    """The label of a curve: its run, and its last value."""
    update, value = curve.points[-1]
    return f"{paths[curve.run]}, {'validation' if curve.valid else 'training'}: {value:,.5g} at update {update:,}"


def _points(events: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(e["update"], e[name]) for e in events if _is_number(e.get(name)) and math.isfinite(e[name])]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _frame(title: str, curves: Iterable[Curve]) -> tuple[float, float, int]:
    """The ends of the axis of values, with some space below the lowest value and above the highest one that is shown;
    and the last update."""
    values = sorted(value for curve in curves for _, value in curve.points)
    low, high = values[0], values[-1]
    if title == LOSS:
        high = values[math.ceil((1 - OFF_THE_TOP) * (len(values) - 1))]
    space = (high - low) * SPACE if high > low else abs(low) / 10 + 1e-6
    return low - space, high + space, max(1, *(curve.points[-1][0] for curve in curves))
