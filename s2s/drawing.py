"""Draws the charts of a store's report with Pillow. Every s2s-preprocess draws one, in a twelfth of the time that
matplotlib needs to be imported and to draw (`s2s.figures`)."""

import math
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from s2s.config.streams import opened

INK, GRID = "#222222", "#dddddd"
# Colours that colour-blind readers can distinguish (Okabe and Ito 2008).
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
LARGE, SMALL = 17, 13  # type sizes


class Canvas:
    """A white picture with the elements of charts. Coordinates are in pixels; anchors are those of Pillow.

    Args:
        width, height: Size in pixels.
    """

    def __init__(self, width: int, height: int):
        self.image = Image.new("RGB", (width, height), "white")
        self._draw = ImageDraw.Draw(self.image)
        self._fonts = {size: ImageFont.load_default(size) for size in (LARGE, SMALL)}

    def text(self, x: float, y: float, text: str, anchor: str = "la", size: int = SMALL) -> float:
        """Write a text; returns the x coordinate of its end."""
        self._draw.text((x, y), text, INK, self._fonts[size], anchor)
        return x + self._fonts[size].getlength(text)

    def line(self, *points: float, color: str = GRID, width: int = 1) -> None:
        """Draw a line through points: x, y, x, y ..."""
        self._draw.line(points, color, width, joint="curve" if width > 1 else None)

    def box(self, left: float, top: float, right: float, bottom: float, color: str) -> None:
        """Draw a filled box, unless it has no area."""
        if right > left and bottom > top:
            self._draw.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), color)

    def png(self) -> bytes:
        """The bytes of the picture as a PNG file."""
        content = BytesIO()
        self.image.save(content, "PNG", compress_level=3)
        return content.getvalue()

    def save(self, path: str | Path) -> None:
        """Write a PNG file, which appears only when it is complete. Raises as `opened`."""
        content = self.png()
        with opened(str(path)) as file:
            file.write(content)


def round_step(highest: float, most: int) -> float | int:
    """The smallest of ..., 0.1, 0.2, 0.5, 1, 2, 5, 10, ... that divides 0 ... highest into at most `most` parts."""
    power = 10.0 ** math.floor(math.log10(highest / most))
    size = next(power * factor for factor in (1, 2, 5, 10) if highest <= most * power * factor)
    return int(size) if size >= 1 else size
