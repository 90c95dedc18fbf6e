"""Figures by matplotlib: colours, fonts for every script, and files of the kind that their ending names.

matplotlib takes a second to import, so this module does it when something is drawn.
"""

import functools
import unicodedata
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from s2s.config.streams import is_standard_output, is_stream, opened
from s2s.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Colours that colour-blind readers can distinguish (Okabe and Ito 2008).
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")
KINDS = ("png", "svg", "pdf")
FIRST = "DejaVu Sans"  # matplotlib contains it; it has Latin, IPA, Greek, Cyrillic, Hebrew, Arabic and others


def kind_of(path: str | Path) -> str:
    """The kind of a picture by the ending of its file; png for a stream and without an ending.

    Raises:
        UserError: it is none of KINDS.
    """
    if is_standard_output(str(path)) or is_stream(path) or not Path(path).suffix:
        return "png"
    kind = Path(path).suffix.removeprefix(".").lower()
    if kind not in KINDS:
        raise UserError(f"{path}: the ending chooses the kind of a picture: .{', .'.join(KINDS)}")
    return kind


def figure(width: float, height: float) -> "Figure":
    """An empty figure, of a size in inches; a pixel is 1/100 inch."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, layout="constrained")


def content(picture: "Figure", kind: str, texts: Iterable[str] = ()) -> bytes:
    """The bytes of a figure as a file of a kind.

    Args:
        picture: The figure.
        kind: One of KINDS.
        texts: Texts in it that may be of any script; see `readable`.
    """
    import matplotlib

    file = BytesIO()
    settings = {"font.family": [FIRST, *fonts("".join(texts))], "svg.fonttype": "path", "svg.hashsalt": "s2s"}
    with matplotlib.rc_context(settings):
        picture.savefig(file, format=kind, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def save(picture: "Figure", path: str | Path, texts: Iterable[str] = ()) -> None:
    """Write a figure to a file, which appears only when it is complete. Raises as `kind_of` and `opened`."""
    made = content(picture, kind_of(path), texts)
    with opened(str(path)) as file:
        file.write(made)


def fonts(text: str) -> list[str]:
    """The names of fonts of this machine that have what the first font lacks of a text."""
    missing, names = set(map(ord, text)) - _characters(_first()), []
    if missing:
        for name, path in _installed().items():
            if found := missing & _characters(path):
                names.append(name)
                missing -= found
            if not missing:
                break
    return names


def readable(text: str) -> str:
    """A text as it can be drawn: a character that no font of this machine has is written as U+304B, and not as a box.
    What is invisible, such as a space, is shown by a sign."""
    found = fonts(text)
    known = _characters(_first()).union(*(_characters(_installed()[name]) for name in found))
    return "".join(
        {" ": "␣", "\n": "⏎", "\t": "⇥"}.get(c, c)
        if ord(c) in known or (unicodedata.combining(c) and len(text) > 1)
        else f"U+{ord(c):04X}"
        for c in text
    ).replace("$", r"\$")  # otherwise the beginning of a formula


def literal(text: str) -> str:
    """A text that matplotlib draws as it is: no formula between dollar signs, and no label that a legend leaves out
    because it begins with an underscore."""
    text = text.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _first() -> str:
    from matplotlib import font_manager

    return font_manager.findfont(FIRST)


@functools.cache
def _installed() -> dict[str, str]:
    """The upright fonts of this machine: name -> file."""
    from matplotlib import font_manager

    entries = [font for font in font_manager.fontManager.ttflist if font.style == "normal" and font.name != FIRST]
    entries.sort(key=lambda font: (abs(int(font.weight) - 400) if isinstance(font.weight, int) else 0, font.name))
    return {font.name: font.fname for font in reversed(entries) if "LastResort" not in font.name.replace(" ", "")}


@functools.cache
def _characters(path: str) -> frozenset[int]:
    """The code points that a font has."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
