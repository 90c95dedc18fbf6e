"""Plots the curves of runs from their metrics.jsonl: loss, metrics of decoded text and throughput by update, as text or
as a picture."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from s2s.drawing import COLORS, INK, LARGE, Canvas, round_step
from s2s.errors import UserError
from s2s.training.metrics import read_metrics

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LOSS, SPEED = "loss per target token", "target tokens/s"
PLAIN = ("loss", "nll", "perplexity", "accuracy", "seconds_validating", "time", "update")  # not from decoded text
OFF_THE_TOP = 0.05  # share of the losses that may lie above the panel, since losses start high
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 340, 88, 24, 64, 48  # size and margins of a panel, in pixels
ROWS = 15  # height of a text panel, in lines


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
            raise UserError(f"{path}: not a run (no metrics.jsonl)")
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
    lines = []
    for title, curves in panels.items():
        low, high, last = _frame(title, curves)
        labels = [f"{low + (high - low) * (ROWS - 1 - row) / (ROWS - 1):,.5g}" for row in range(ROWS)]
        margin = max(map(len, labels))
        columns = max(20, width - margin - 2)
        grid = [[" "] * columns for _ in range(ROWS)]
        for curve in curves:
            letter = LETTERS[curve.run % len(LETTERS)]
            for column in range(columns):
                value = _at(curve.points, column * last / (columns - 1))
                if value is not None and low <= value <= high:
                    row = round((high - value) / (high - low) * (ROWS - 1))
                    grid[row][column] = letter.upper() if curve.valid else letter
        lines += ["", title]
        lines += [f"{label:>{margin}} |{''.join(row)}".rstrip() for label, row in zip(labels, grid, strict=True)]
        lines.append(" " * margin + " +" + "-" * columns)
        lines.append(" " * (margin + 2) + "0" + f"update {last:,}".rjust(columns - 1))
        for curve in curves:
            letter = LETTERS[curve.run % len(LETTERS)]
            lines.append(f"  {letter.upper() if curve.valid else letter}  {_legend(curve, paths)}")
    return "\n".join(lines[1:])


def to_picture(panels: Panels, paths: list[str], file: str | Path) -> None:
    """Draw panels into a PNG file, one below the other. Each run has a colour; validations have dots."""
    heights = [HEIGHT + 18 * len(curves) for curves in panels.values()]
    canvas, top = Canvas(WIDTH, sum(heights)), 0
    for (title, curves), height in zip(panels.items(), heights, strict=True):
        _panel(canvas, top, title, curves, paths)
        top += height
    canvas.save(file)


def _panel(canvas: Canvas, top: int, title: str, curves: list[Curve], paths: list[str]) -> None:
    low, high, last = _frame(title, curves)
    canvas.text(LEFT, top + 20, title, "lm", LARGE)
    for number, curve in enumerate(curves):
        y, color = top + 44 + 18 * number, COLORS[curve.run % len(COLORS)]
        canvas.line(LEFT, y, LEFT + 28, y, color=color, width=2)
        if curve.valid:
            canvas.dot(LEFT + 14, y, color)
        canvas.text(LEFT + 36, y, _legend(curve, paths), "lm")
    left, right = LEFT, WIDTH - RIGHT
    upper, lower = top + TOP + 18 * len(curves), top + HEIGHT + 18 * len(curves) - BOTTOM
    step = round_step(high - low, 6)
    for number in range(math.ceil(low / step), math.floor(high / step) + 1):
        y = lower - (lower - upper) * (number * step - low) / (high - low)
        canvas.line(left, y, right, y)
        canvas.text(left - 8, y, f"{number * step:,.6g}", "rm")
    step = max(1, int(round_step(last, 10)))
    for update in range(0, last + 1, step):
        x = left + (right - left) * update / last
        canvas.text(x, lower + 6, f"{update:,}", "ma")
    canvas.line(left, lower, right, lower, color=INK)
    canvas.text((left + right) / 2, lower + 24, "update", "ma")
    for curve in curves:
        color = COLORS[curve.run % len(COLORS)]
        places = [
            (left + (right - left) * update / last, lower - (lower - upper) * (value - low) / (high - low))
            for update, value in curve.points
            if value <= high
        ]
        if len(places) > 1:
            canvas.line(*(number for place in places for number in place), color=color, width=2)
        for place in places if curve.valid or len(places) == 1 else []:
            canvas.dot(*place, color)


def _legend(curve: Curve, paths: list[str]) -> str:
    """The label of a curve: its run, and its last value."""
    update, value = curve.points[-1]
    return f"{paths[curve.run]}, {'validation' if curve.valid else 'training'}: {value:,.5g} at update {update:,}"


def _points(events: list[dict[str, Any]], name: str) -> list[tuple[int, float]]:
    return [(e["update"], e[name]) for e in events if _is_number(e.get(name)) and math.isfinite(e[name])]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _frame(title: str, curves: Iterable[Curve]) -> tuple[float, float, int]:
    """The lowest and highest value shown (which always differ), and the last update."""
    values = sorted(value for curve in curves for _, value in curve.points)
    low, high = values[0], values[-1]
    if title == LOSS:
        high = values[math.ceil((1 - OFF_THE_TOP) * (len(values) - 1))]
    if high <= low:
        low, high = low - abs(low) / 10 - 1e-6, low + abs(low) / 10 + 1e-6
    return low, high, max(1, *(curve.points[-1][0] for curve in curves))


def _at(points: list[tuple[int, float]], update: float) -> float | None:
    """The value at an update, by linear interpolation; None: it is outside of the points."""
    if not points[0][0] <= update <= points[-1][0]:
        return None
    after = next(number for number, point in enumerate(points) if point[0] >= update)
    (x2, y2), (x1, y1) = points[after], points[max(0, after - 1)]
    return y2 if x2 == x1 else y1 + (y2 - y1) * (update - x1) / (x2 - x1)
