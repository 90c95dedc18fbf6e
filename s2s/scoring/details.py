"""What is behind a score: each line's edits, the worst lines, and scores by speaker or whatever else groups lines."""

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
        line: Its number, from 1.
        name: What the line is called, or "".
        columns: (reference's unit, hypothesis's unit, S, D, I or nothing where they agree), one after the other.
        edits: How many of each.
    """

    line: int
    name: str
    columns: list[tuple[str, str, str]]
    edits: Edits

    def __str__(self) -> str:
        """Three rows with a column for each unit, under what the line is."""
        widths = [max(map(_width, column)) for column in self.columns]
        rows = (
            " ".join(_padded(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in zip(*self.columns, strict=True)
        )
        title = f"line {self.line}{f' ({self.name})' if self.name else ''}: {self.edits}"
        return "\n".join([title, *(f"{name} {row}" for name, row in zip(("REF:", "HYP:", "    "), rows, strict=False))])


def align(reference: Sequence[str], hypothesis: Sequence[str], line: int, name: str = "") -> Aligned:
    """Units of a line beside each other, by the edits that its error rate counts."""
    columns = []
    for code in operations(reference, hypothesis).as_opcodes():
        wanted, found = reference[code.src_start : code.src_end], hypothesis[code.dest_start : code.dest_end]
        for i in range(max(len(wanted), len(found))):
            ref, hyp = (side[i] if i < len(side) else "" for side in (wanted, found))
            gap = GAP * max(_width(ref), _width(hyp))
            columns.append((ref or gap, hyp or gap, MARKS[code.tag]))
    return Aligned(line, name, columns, edits(reference, hypothesis))


def aligned(hypotheses: Lines, references: Lines, units: Callable[[str], Sequence[str]], names: Lines | None = None):
    """The lines with an error, aligned, in their order.

    Args:
        hypotheses, references: As they are scored.
        units: What edits are counted of: those of a line.
        names: Of the lines.
    """
    for place, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True)):
        wanted, found = list(units(reference)), list(units(hypothesis))
        if wanted != found:
            yield align(wanted, found, place + 1, names[place] if names else "")


def worst(lines: Sequence[Aligned], count: int) -> list[Aligned]:
    """Those with the most edits, and of these those with the most for their length; the first if that is the same."""
    return sorted(lines, key=lambda one: (-one.edits.total, one.edits.reference_length))[:count]


def confused(lines: Sequence[Aligned], count: int) -> list[tuple[str, str, int]]:
    """The most frequent substitutions: reference's unit, hypothesis's unit, how often."""
    pairs = Counter((ref, hyp) for one in lines for ref, hyp, mark in one.columns if mark == "S")
    return [(*pair, times) for pair, times in sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:count]]


def by_group(
    groups: Lines, hypotheses: Lines, references: Sequence[Lines], score: Callable[[Lines, Sequence[Lines]], Score]
) -> dict[str, Score]:
    """The score of the lines of each group, groups in alphabetical order.

    Args:
        groups: What each line belongs to.
        hypotheses, references: All lines.
        score: Of some lines and their references.
    """
    members: dict[str, list[int]] = {}
    for place, name in enumerate(groups):
        members.setdefault(name, []).append(place)
    return {
        name: score([hypotheses[i] for i in members[name]], [[side[i] for i in members[name]] for side in references])
        for name in sorted(members)
    }


def group_table(name: str, scores: dict[str, dict[str, Score]], sizes: dict[str, int]) -> str:
    """Groups as rows, metrics as columns, for people.

    Args:
        name: What groups are.
        scores: Metric -> group -> score.
        sizes: Lines of each group.
    """
    detailed = {metric: {group: _counted(one) for group, one in some.items()} for metric, some in scores.items()}
    lines = [[name, "lines", *(next(iter(some.values())).name for some in scores.values())]]
    lines += [[group, str(size), *(some[group] for some in detailed.values())] for group, size in sizes.items()]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(_padded(cell, w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _counted(score: Score) -> str:
    counts = score.counts
    if "substitutions" not in counts:
        return f"{score.value:.2f}"
    kinds = (counts[kind] for kind in ("substitutions", "deletions", "insertions", "reference_length"))
    return "{:.2f} ({} S, {} D, {} I of {})".format(score.value, *kinds)


def _width(text: str) -> int:
    """Columns of a terminal that a text takes."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
