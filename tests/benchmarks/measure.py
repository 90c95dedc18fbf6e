"""Speeds of several ways of doing the same work, taken in turn, and the rows that a benchmark reports."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence

NOISE = 1.5  # highest over lowest ratio of the rounds, from which on a row is noise
Work = Callable[[int], int]  # does the work of a round and returns how much it was, in the unit of the figure


@dataclasses.dataclass
class Row:
    """One line of a report.

    Attributes:
        case: What was measured under which settings.
        figure: The figure and its unit.
        ours: Of s2s.
        reference: Of what it is measured beside; None where there is nothing.
        ratio: Ours over the reference's, the median over the rounds; None where a ratio says nothing.
        ratio_range: The lowest and the highest ratio of a round.
    """

    case: str
    figure: str
    ours: float
    reference: float | None = None
    ratio: float | None = None
    ratio_range: tuple[float, float] | None = None

    @property
    def noise(self) -> bool:
        """Whether the rounds differ too much for the figure to be quoted."""
        return self.ratio_range is not None and self.ratio_range[1] > NOISE * self.ratio_range[0]


@dataclasses.dataclass
class Paired:
    """Speeds of both sides in each round, in units of work a second."""

    ours: list[float]
    reference: list[float]

    def row(self, case: str, figure: str, scale: float = 1.0) -> Row:
        """The medians; `scale` turns the unit of work into the figure's."""
        ratios = [a / b for a, b in zip(self.ours, self.reference, strict=True)]
        ours, reference = (scale * statistics.median(speeds) for speeds in (self.ours, self.reference))
        return Row(case, figure, ours, reference, statistics.median(ratios), (min(ratios), max(ratios)))


def paired(ours: Work, reference: Work, rounds: int, synchronize: Callable[[], None] = lambda: None) -> Paired:
    """Measure A B A B ..., as `interleaved` does."""
    return Paired(*interleaved([ours, reference], rounds, synchronize))


def interleaved(
    works: Sequence[Work], rounds: int, synchronize: Callable[[], None] = lambda: None
) -> list[list[float]]:
    """Speeds of each work in each round, measured A B C A B C ... after an unmeasured round of each, so that what else
    the machine does hits all alike.

    Args:
        works: The work of round 0, 1 ...
        rounds: How many are measured.
        synchronize: Waits for the device.
    """

    def speed(work: Work, number: int) -> float:
        synchronize()
        began = time.perf_counter()
        amount = work(number)
        synchronize()
        return amount / (time.perf_counter() - began)

    for work in works:
        speed(work, 0)
    speeds = [[speed(work, number) for work in works] for number in range(rounds)]
    return list(map(list, zip(*speeds, strict=True)))


def table(rows: list[Row]) -> str:
    """Rows for people. Where nothing has a reference, each case is one line, with a column for each of its figures."""
    if all(row.reference is None for row in rows):
        figures = list(dict.fromkeys(row.figure for row in rows))
        found = {(row.case, row.figure): _number(row.ours) for row in rows}
        cases = dict.fromkeys(row.case for row in rows)
        lines = [[case, *(found.get((case, figure), "") for figure in figures)] for case in cases]
        return _aligned([["case", *figures], *lines], 1)
    lines = [
        [
            row.case,
            row.figure,
            _number(row.ours),
            _number(row.reference),
            "" if row.ratio is None else f"{row.ratio:.2f}",
            "" if row.ratio_range is None else ("noise " * row.noise) + "{:.2f}-{:.2f}".format(*row.ratio_range),
        ]
        for row in rows
    ]
    return _aligned([["case", "figure", "s2s", "reference", "ratio", "range"], *lines], 2)


def _aligned(lines: list[list[str]], left: int) -> str:
    """Cells in columns, the first `left` of them aligned at the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _number(value: float | None) -> str:
    """Four significant digits are more than a time has."""
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
