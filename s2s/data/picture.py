"""The report of a store as a picture: histograms of both sides of each split, and characters a token."""

import math
from pathlib import Path
from typing import Any

from s2s.data.report import BARS
from s2s.data.store import SIDES
from s2s.drawing import COLORS, INK, LARGE, Canvas, round_step

WIDTH, HEIGHT, MARGIN = 640, 340, 24  # of a panel, its margin included, in pixels
LEFT, TOP, BOTTOM = 64, 64, 44  # room inside of it for numbers, title and label
SHADES = dict(zip(SIDES, COLORS, strict=False))


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture of a report (see `s2s.data.report`) to a PNG file."""
    splits = report["splits"]
    columns = min(2, len(splits))
    rows = math.ceil(len(splits) / columns)
    rates = TOP + BOTTOM + 2 * MARGIN + 48 * len(splits)  # height of the last panel
    canvas = Canvas(columns * WIDTH, rows * HEIGHT + rates)
    languages = {side: report[f"{side}_language"] for side in SIDES}
    for number, (name, split) in enumerate(splits.items()):
        _histogram(canvas, languages, (number % columns * WIDTH, number // columns * HEIGHT), name, split)
    _rates(canvas, languages, rows * HEIGHT, splits)
    canvas.save(path)


def _legend(canvas: Canvas, x: float, y: float, notes: dict[str, str]) -> None:
    """A note for each side, in its colour."""
    for side in SIDES:
        canvas.box(x, y - 5, x + 11, y + 6, SHADES[side])
        x = canvas.text(x + 17, y, notes[side], "lm") + 24


def _histogram(
    canvas: Canvas, languages: dict[str, str], corner: tuple[int, int], name: str, split: dict[str, Any]
) -> None:
    """Share of the lines of a split by their number of tokens, side beside side."""
    left, top = corner[0] + MARGIN + LEFT, corner[1] + MARGIN + TOP
    right, bottom = corner[0] + WIDTH - MARGIN, corner[1] + HEIGHT - MARGIN - BOTTOM
    canvas.text(left, top - 46, f"{name}: {split['pairs']:,} pairs{_premium(languages, split)}", "lm", LARGE)
    rates = {side: f"{100 * split[side]['unknown_rate']:.2g}%" for side in SIDES}
    medians = {side: split[side]["lengths"]["50%"] for side in SIDES}
    _legend(canvas, left, top - 20,
            {s: f"{languages[s]}: median {medians[s]}, unknown tokens {rates[s]}" for s in SIDES})  # fmt: skip
    shares = {side: [100 * n / split["pairs"] for n in split[side]["histogram"]["lines"]] for side in SIDES}
    highest, bars = max(map(max, shares.values())), max(map(len, shares.values()))
    step = round_step(highest, 6)
    for number in range(math.floor(highest / step) + 1):
        y = bottom - (bottom - top) * number * step / highest
        canvas.line(left, y, right, y)
        canvas.text(left - 8, y, f"{number * step:g}%", "rm")
    width, tokens = (right - left) / bars, split["source"]["histogram"]["tokens"]
    for side, first in (("source", 0.1), ("target", 0.5)):
        for bar, share in enumerate(shares[side]):
            x = left + width * (bar + first)
            canvas.box(x, bottom - (bottom - top) * share / highest, x + 0.4 * width, bottom, SHADES[side])
    canvas.line(left, bottom, right, bottom, color=INK)
    for number in range(0, bars, max(1, int(round_step(bars, 8)))):
        canvas.text(left + width * (number + 0.5), bottom + 6, str(number * tokens), "ma")
    spans = f" ({tokens} a bar, the first of them given)" if tokens > 1 else ""
    longer = "; the last bar: all longer lines" if bars == BARS else ""
    canvas.text((left + right) / 2, bottom + 26, f"tokens of a line{spans}{longer}", "ma")
    canvas.text(left - 8, top - 20, "lines", "rm")


def _premium(languages: dict[str, str], split: dict[str, Any]) -> str:
    """The tokenizer premium both ways, if there is one."""
    source, target = languages.values()
    forth, back, _ = split["premium"].values()
    return "" if forth is None else f"; premium {target}/{source} {forth:.2f}, {source}/{target} {back:.2f}"


def _rates(canvas: Canvas, languages: dict[str, str], corner: int, splits: dict[str, Any]) -> None:
    """Characters a token of both sides of each split."""
    left, right, top = MARGIN + LEFT, canvas.image.width - 3 * MARGIN, corner + MARGIN + TOP
    bottom = top + 48 * len(splits)
    canvas.text(left, top - 46, "Characters a token", "lm", LARGE)
    _legend(canvas, left, top - 20, languages)
    highest = max(split[side]["characters_per_token"] for split in splits.values() for side in SIDES) or 1.0
    step = round_step(highest, 8)
    for number in range(math.floor(highest / step) + 1):
        x = left + (right - left) * number * step / highest
        canvas.line(x, top, x, bottom)
        canvas.text(x, bottom + 6, f"{number * step:g}", "ma")
    for row, (name, split) in enumerate(splits.items()):
        y = top + 48 * row
        canvas.text(left - 8, y + 24, name, "rm")
        for side, first in (("source", 6), ("target", 24)):
            value = split[side]["characters_per_token"]
            end = left + (right - left) * value / highest
            canvas.box(left, y + first, end, y + first + 18, SHADES[side])
            canvas.text(end + 6, y + first + 9, f"{value:.2f}", "lm")
    canvas.line(left, top, left, bottom, color=INK)
