"""The report of a store as a picture: histograms of both sides of each split, and characters a token.

Drawn with Pillow: a twelfth of the time that matplotlib takes to be imported and to draw the same.
"""

import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from s2s.data.report import BARS
from s2s.data.store import SIDES

WIDTH, HEIGHT, MARGIN = 640, 340, 24  # of a panel, its margin included, in pixels
LEFT, TOP, BOTTOM = 64, 64, 44  # room inside of it for numbers, title and label
COLORS = {"source": "#0072b2", "target": "#e69f00"}  # told apart by all eyes (Okabe and Ito 2008)
INK, GRID = "#222222", "#dddddd"
LARGE, SMALL = 17, 13  # type sizes


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the picture of a report (see `s2s.data.report`) to a PNG file."""
    splits = report["splits"]
    columns = min(2, len(splits))
    rows = math.ceil(len(splits) / columns)
    rates = TOP + BOTTOM + 2 * MARGIN + 48 * len(splits)  # height of the last panel
    canvas = Canvas(columns * WIDTH, rows * HEIGHT + rates, {side: report[f"{side}_language"] for side in SIDES})
    for number, (name, split) in enumerate(splits.items()):
        _histogram(canvas, (number % columns * WIDTH, number // columns * HEIGHT), name, split)
    _rates(canvas, rows * HEIGHT, splits)
    canvas.image.save(path, compress_level=3)


class Canvas:
    """A white picture with the few things that charts are made of; text is placed by an anchor as Pillow names them."""

    def __init__(self, width: int, height: int, languages: dict[str, str]):
        self.image = Image.new("RGB", (width, height), "white")
        self.languages = languages
        self._draw = ImageDraw.Draw(self.image)
        self._fonts = {size: ImageFont.load_default(size) for size in (LARGE, SMALL)}

    def text(self, x: float, y: float, text: str, anchor: str = "la", size: int = SMALL) -> float:
        """Write a text; returns where it ends."""
        self._draw.text((x, y), text, INK, self._fonts[size], anchor)
        return x + self._fonts[size].getlength(text)

    def line(self, *points: float, color: str = GRID) -> None:
        self._draw.line(points, color)

    def box(self, left: float, top: float, right: float, bottom: float, side: str) -> None:
        if right > left and bottom > top:
            self._draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), COLORS[side])

    def legend(self, x: float, y: float, notes: dict[str, str]) -> None:
        """The languages in their colours, each with a note."""
        for side in SIDES:
            self.box(x, y - 5, x + 11, y + 6, side)
            x = self.text(x + 17, y, f"{self.languages[side]}{notes[side]}", "lm") + 24


def _histogram(canvas: Canvas, corner: tuple[int, int], name: str, split: dict[str, Any]) -> None:
    """Share of the lines of a split by their number of tokens, side beside side."""
    left, top = corner[0] + MARGIN + LEFT, corner[1] + MARGIN + TOP
    right, bottom = corner[0] + WIDTH - MARGIN, corner[1] + HEIGHT - MARGIN - BOTTOM
    canvas.text(left, top - 46, f"{name}: {split['pairs']:,} pairs{_premium(canvas, split)}", "lm", LARGE)
    rates = {side: f"{100 * split[side]['unknown_rate']:.2g}%" for side in SIDES}
    canvas.legend(
        left, top - 20, {s: f": median {split[s]['lengths']['50%']}, unknown tokens {rates[s]}" for s in SIDES}
    )
    shares = {side: [100 * n / split["pairs"] for n in split[side]["histogram"]["lines"]] for side in SIDES}
    highest, bars = max(map(max, shares.values())), max(map(len, shares.values()))
    step = _step(highest, 6)
    for number in range(math.floor(highest / step) + 1):
        y = bottom - (bottom - top) * number * step / highest
        canvas.line(left, y, right, y)
        canvas.text(left - 8, y, f"{number * step:g}%", "rm")
    width, tokens = (right - left) / bars, split["source"]["histogram"]["tokens"]
    for side, first in (("source", 0.1), ("target", 0.5)):
        for bar, share in enumerate(shares[side]):
            x = left + width * (bar + first)
            canvas.box(x, bottom - (bottom - top) * share / highest, x + 0.4 * width, bottom, side)
    canvas.line(left, bottom, right, bottom, color=INK)
    for number in range(0, bars, max(1, int(_step(bars, 8)))):
        canvas.text(left + width * (number + 0.5), bottom + 6, str(number * tokens), "ma")
    spans = f" ({tokens} a bar, the first of them given)" if tokens > 1 else ""
    longer = "; the last bar: all longer lines" if bars == BARS else ""
    canvas.text((left + right) / 2, bottom + 26, f"tokens of a line{spans}{longer}", "ma")
    canvas.text(left - 8, top - 20, "lines", "rm")


def _premium(canvas: Canvas, split: dict[str, Any]) -> str:
    """The tokenizer premium both ways, if there is one."""
    source, target = canvas.languages.values()
    forth, back, _ = split["premium"].values()
    return "" if forth is None else f"; premium {target}/{source} {forth:.2f}, {source}/{target} {back:.2f}"


def _rates(canvas: Canvas, corner: int, splits: dict[str, Any]) -> None:
    """Characters a token of both sides of each split."""
    left, right, top = MARGIN + LEFT, canvas.image.width - 3 * MARGIN, corner + MARGIN + TOP
    bottom = top + 48 * len(splits)
    canvas.text(left, top - 46, "Characters a token", "lm", LARGE)
    canvas.legend(left, top - 20, dict.fromkeys(SIDES, ""))
    highest = max(split[side]["characters_per_token"] for split in splits.values() for side in SIDES) or 1.0
    step = _step(highest, 8)
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
            canvas.box(left, y + first, end, y + first + 18, side)
            canvas.text(end + 6, y + first + 9, f"{value:.2f}", "lm")
    canvas.line(left, top, left, bottom, color=INK)


def _step(highest: float, most: int) -> float | int:
    """The smallest of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ... that divides a range into no more than so many parts."""
    power = 10.0 ** math.floor(math.log10(highest / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if highest <= most * power * factor)
    return int(step) if step >= 1 else step
