"""Draws the report of a store: histograms of lengths in each split, and characters per token of both sides."""

import math
from collections.abc import Iterable
from typing import Any

from s2s.data.report import BARS, PREMIUM
from s2s.drawing import COLORS, INK, LARGE, Canvas, round_step

WIDTH, HEIGHT, MARGIN = 640, 340, 24  # size of a panel and its margin, which is part of it, in pixels
LEFT, TOP, BOTTOM = 64, 64, 44  # space inside the panel for numbers, title and label, in pixels


def draw(report: dict[str, Any]) -> bytes:
    """Draw a report of text (see `s2s.data.report`) or of speech; returns the bytes of a PNG file."""
    speech = all("seconds" in split for split in report["splits"].values())
    return (_speech(report["splits"]) if speech else _text(report)).png()


def _speech(splits: dict[str, Any]) -> Canvas:
    """Histograms for each split: lengths of utterances in seconds and in tokens."""
    canvas = Canvas(2 * WIDTH, len(splits) * HEIGHT)
    for number, (name, split) in enumerate(splits.items()):
        source, target, second = split["source"], split["target"], split["source"]["frame_shift"] / 1000
        frames, of_frames = source["histogram"].values()
        tokens, of_tokens = target["histogram"].values()
        title = f"{name}: {split['pairs']:,} utterances, {split['seconds'] / 3600:.2f} hours"
        note = f"median {second * source['lengths']['50%']:.1f} s"
        _histogram(canvas, (0, number * HEIGHT), title, [note], [of_frames], frames * second, "seconds of an utterance")
        title = f"{name}: {target['tokens']:,} tokens, {target['tokens'] / split['seconds']:.1f} a second"
        note = f"median {target['lengths']['50%']}, unknown tokens {100 * target['unknown_rate']:.2g}%"
        _histogram(canvas, (WIDTH, number * HEIGHT), title, [note], [of_tokens], tokens, "tokens of an utterance")
    return canvas


def _text(report: dict[str, Any]) -> Canvas:
    """A histogram for each split, of tokens per line of all sides; and characters per token of all splits."""
    splits = report["splits"]
    columns = min(2, len(splits))
    rows = math.ceil(len(splits) / columns)
    rates = TOP + BOTTOM + 2 * MARGIN + 48 * len(splits)  # height of the last panel
    canvas = Canvas(columns * WIDTH, rows * HEIGHT + rates)
    languages = {side: report.get(f"{side}_language", side) for side in report["vocabularies"]}
    for number, (name, split) in enumerate(splits.items()):
        corner = number % columns * WIDTH, number // columns * HEIGHT
        title = f"{name}: {split['pairs']:,} pairs{_premium(languages, split)}"
        notes = [
            f"{languages[side]}: median {split[side]['lengths']['50%']}, "
            f"unknown tokens {100 * split[side]['unknown_rate']:.2g}%"
            for side in languages
        ]
        counts = [split[side]["histogram"]["lines"] for side in languages]
        _histogram(canvas, corner, title, notes, counts, split[next(iter(languages))]["histogram"]["tokens"],
                   "tokens of a line")  # fmt: skip
    _rates(canvas, languages, rows * HEIGHT, splits)
    return canvas


def _legend(canvas: Canvas, x: float, y: float, notes: Iterable[str]) -> None:
    """Draw notes in a row, each beside a box of its colour."""
    for note, color in zip(notes, COLORS, strict=False):
        canvas.box(x, y - 5, x + 11, y + 6, color)
        x = canvas.text(x + 17, y, note, "lm") + 24


def _histogram(canvas: Canvas, corner: tuple[int, int], title: str, notes: list[str], counts: list[list[int]],
               unit: float, label: str) -> None:  # fmt: skip
    """Draw a panel with the shares of lines by length, the bars of several sides next to each other.

    Args:
        canvas: To draw on.
        corner: Upper left corner of the panel, in pixels.
        title: Title of the panel.
        notes: A note for each side.
        counts: For each side, the number of lines in each bar.
        unit: Width of a bar, in the unit of the lengths.
        label: Label of the axis.
    """
    left, top = corner[0] + MARGIN + LEFT, corner[1] + MARGIN + TOP
    right, bottom = corner[0] + WIDTH - MARGIN, corner[1] + HEIGHT - MARGIN - BOTTOM
    canvas.text(left, top - 46, title, "lm", LARGE)
    _legend(canvas, left, top - 20, notes)
    shares = [[100 * n / sum(side) for n in side] for side in counts]
    highest, bars = max(map(max, shares)), max(map(len, shares))
    step = round_step(highest, 6)
    for number in range(math.floor(highest / step) + 1):
        y = bottom - (bottom - top) * number * step / highest
        canvas.line(left, y, right, y)
        canvas.text(left - 8, y, f"{number * step:g}%", "rm")
    width, each = (right - left) / bars, 0.8 / len(shares)
    for number, (side, color) in enumerate(zip(shares, COLORS, strict=False)):
        for bar, share in enumerate(side):
            x = left + width * (bar + 0.1 + number * each)
            canvas.box(x, bottom - (bottom - top) * share / highest, x + each * width, bottom, color)
    canvas.line(left, bottom, right, bottom, color=INK)
    for number in range(0, bars, max(1, int(round_step(bars, 8)))):
        canvas.text(left + width * (number + 0.5), bottom + 6, f"{number * unit:g}", "ma")
    spans = f" ({unit:g} a bar, its beginning given)" if unit != 1 else ""
    longer = "; the last bar has all longer ones" if bars == BARS else ""
    canvas.text((left + right) / 2, bottom + 26, f"{label}{spans}{longer}", "ma")


def _premium(languages: dict[str, str], split: dict[str, Any]) -> str:
    """The tokenizer premium in both directions, if there is one."""
    if "premium" not in split:
        return ""
    source, target = (languages[side] for side in PREMIUM)
    forth, back, _ = split["premium"].values()
    return "" if forth is None else f"; premium {target}/{source} {forth:.2f}, {source}/{target} {back:.2f}"


def _rates(canvas: Canvas, languages: dict[str, str], corner: int, splits: dict[str, Any]) -> None:
    """Draw characters per token of each side of each split."""
    left, right, top = MARGIN + LEFT, canvas.image.width - 3 * MARGIN, corner + MARGIN + TOP
    bottom = top + 48 * len(splits)
    canvas.text(left, top - 46, "Characters per token", "lm", LARGE)
    _legend(canvas, left, top - 20, languages.values())
    highest = max(split[side]["characters_per_token"] for split in splits.values() for side in languages) or 1.0
    step = round_step(highest, 8)
    for number in range(math.floor(highest / step) + 1):
        x = left + (right - left) * number * step / highest
        canvas.line(x, top, x, bottom)
        canvas.text(x, bottom + 6, f"{number * step:g}", "ma")
    for row, (name, split) in enumerate(splits.items()):
        y = top + 48 * row
        canvas.text(left - 8, y + 24, name, "rm")
        each = 36 / len(languages)
        for number, (side, color) in enumerate(zip(languages, COLORS, strict=False)):
            value, first = split[side]["characters_per_token"], 6 + number * each
            end = left + (right - left) * value / highest
            canvas.box(left, y + first, end, y + first + each, color)
            canvas.text(end + 6, y + first + 9, f"{value:.2f}", "lm")
    canvas.line(left, top, left, bottom, color=INK)
