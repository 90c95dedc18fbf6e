"""Details of a score: the edits of each line, the worst lines, and scores by group (such as speaker)."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from unicodedata import combining, east_asian_width

from s2s.scoring.edits import Edits, edits, operations
from s2s.scoring.metric import Lines, Score

GAP = "*"
MARKS = {"replace": "S", "delete": "D", "insert": "I", "equal": ""}


@dataclasses.dataclass
class Aligned:
    """A hypothesis beside its reference.

    Attributes:
        line: Number of the line, from 1.
        name: Name of the line, or "".
        columns: For each aligned pair: unit of the reference, unit of the hypothesis, and S, D, I, or "" if they agree.
        edits: Numbers of edits.
    """

    line: int
    name: str
    columns: list[tuple[str, str, str]]
    edits: Edits

    def __str__(self) -> str:
        """A title, and three rows below it (reference, hypothesis, edits) with a column for each unit."""
        widths = [max(map(_width, column)) for column in self.columns]
        rows = (
            " ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in zip(*self.columns, strict=True)
        )
        title = f"line {self.line}{f' ({self.name})' if self.name else ''}: {self.edits}"
        return "\n".join([title, *(f"{name} {row}" for name, row in zip(("REF:", "HYP:", "    "), rows, strict=False))])


def align(reference: Sequence[str], hypothesis: Sequence[str], line: int, name: str = "") -> Aligned:
    """Align the units of a line by the edits that the error rate counts."""
    columns = []
    for code in operations(reference, hypothesis).as_opcodes():
        expected, actual = reference[code.src_start : code.src_end], hypothesis[code.dest_start : code.dest_end]
        for i in range(max(len(expected), len(actual))):
            ref, hyp = (side[i] if i < len(side) else "" for side in (expected, actual))
            gap = GAP * max(_width(ref), _width(hyp))
            columns.append((ref or gap, hyp or gap, MARKS[code.tag]))
    return Aligned(line, name, columns, edits(reference, hypothesis))


def aligned(hypotheses: Lines, references: Lines, units: Callable[[str], Sequence[str]], names: Lines | None = None):
    """Yield the lines with an error, aligned, in their order.

    Args:
        hypotheses, references: The scored lines.
        units: Splits a line into the units whose edits are counted.
        names: Names of the lines.
    """
    for place, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True)):
        expected, actual = list(units(reference)), list(units(hypothesis))
        if expected != actual:
            yield align(expected, actual, place + 1, names[place] if names else "")


def worst(lines: Sequence[Aligned], count: int) -> list[Aligned]:
    """The lines with the most edits. Among equals, shorter references come first, then earlier lines."""
    return sorted(lines, key=lambda line: (-line.edits.total, line.edits.reference_length))[:count]


def confused(lines: Sequence[Aligned], count: int) -> list[tuple[str, str, int]]:
    """The most frequent substitutions: unit of the reference, unit of the hypothesis, count."""
    pairs = Counter((ref, hyp) for line in lines for ref, hyp, mark in line.columns if mark == "S")
    return [(*pair, times) for pair, times in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:count]]


def by_group(
    groups: Lines, hypotheses: Lines, references: Sequence[Lines], score: Callable[[Lines, Sequence[Lines]], Score]
) -> dict[str, Score]:
    """Score the lines of each group. Returns group -> score, in alphabetical order of the groups.

    Args:
        groups: Group of each line.
        hypotheses, references: All lines.
        score: Scores lines against their references.
    """
    members: dict[str, list[int]] = {}
    for place, name in enumerate(groups):
        members.setdefault(name, []).append(place)
    return {
        name: score([hypotheses[i] for i in members[name]], [[side[i] for i in members[name]] for side in references])
        for name in sorted(members)
    }


def group_table(name: str, scores: dict[str, dict[str, Score]], sizes: dict[str, int]) -> str:
    """A table as text, with groups as rows and metrics as columns.

    Args:
        name: Title of the column of groups.
        scores: Metric -> group -> score.
        sizes: Number of lines of each group.
    """
    cells = {
        metric: {group: _counted(score) for group, score in by_group.items()} for metric, by_group in scores.items()
    }
    lines = [[name, "lines", *(next(iter(by_group.values())).name for by_group in scores.values())]]
    lines += [[group, str(size), *(column[group] for column in cells.values())] for group, size in sizes.items()]
    return columns(lines)


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text, in columns of equal width."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_padded(cell, w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _counted(score: Score) -> str:
    counts = score.counts
    if "substitutions" not in counts:
        return f"{score.value:.2f}"
    kinds = (counts[kind] for kind in ("substitutions", "deletions", "insertions", "reference_length"))
    return "{:.2f} ({} S, {} D, {} I of {})".format(score.value, *kinds)


def _width(text: str) -> int:
    """Width of a text in columns of a terminal."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
