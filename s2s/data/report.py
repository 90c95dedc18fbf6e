"""What the text of a store is like: counts gathered chunk by chunk, facts made of them, and the facts as text.

Counting takes memory by the longest line, not by the number of lines. All sums are of integers, so that the facts do
not depend on how the lines came in chunks.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from s2s.text.vocabulary import UNK

BARS = 40  # of a histogram, at most
PERCENTILES = {"50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}
MOST_UNKNOWN = 0.1  # share of a side's tokens, for a pair to count for the premium
PREMIUM = ("source", "target")  # the sides whose tokens are compared
FIXED = 1 << 24  # the unit of a ratio as an integer
BLOCKS = " ▁▂▃▄▅▆▇█"


class SideCounts:
    """Counts of one side of a split."""

    def __init__(self):
        self.lengths = np.zeros(1, np.int64)  # lines by their number of tokens
        self.unknown = self.characters = 0

    def add(self, lengths: np.ndarray, unknown: int, characters: int) -> None:
        """Add lines: the tokens of each, the unknown tokens and the characters of all."""
        new = np.bincount(lengths, minlength=len(self.lengths))
        new[: len(self.lengths)] += self.lengths
        self.lengths = new
        self.unknown += unknown
        self.characters += characters

    def facts(self, bar: int) -> dict[str, Any]:
        """Facts for the report; `bar`: tokens that a bar of the histogram spans."""
        tokens = int(self.lengths @ np.arange(len(self.lengths)))
        bars = np.add.reduceat(self.lengths, np.arange(0, len(self.lengths), bar))
        if len(bars) > BARS:
            bars = np.append(bars[: BARS - 1], bars[BARS - 1 :].sum())
        return {
            "tokens": tokens,
            "unknown": self.unknown,
            "characters": self.characters,
            "unknown_rate": round(self.unknown / max(tokens, 1), 6),
            "characters_per_token": round(self.characters / max(tokens, 1), 3),
            "lengths": {name: percentile(self.lengths, share) for name, share in PERCENTILES.items()},
            "histogram": {"tokens": bar, "lines": bars.tolist()},
        }


def premium_facts(sums: np.ndarray) -> dict[str, Any]:
    """Tokenizer premium (Petrov et al. 2023, arXiv:2305.15425): the mean over pairs of one side's tokens divided by the
    other's, both ways. It counts pairs with tokens on both sides, of which at most a tenth are unknown on either. That
    of no pairs is None.

    Args:
        sums: Of the `premium_sums` of all chunks, integers of any size.
    """
    *ratios, pairs = sums
    means = [round(ratio / FIXED / pairs, 4) if pairs else None for ratio in ratios]
    return {"target_over_source": means[0], "source_over_target": means[1], "pairs": int(pairs)}


def premium_sums(lengths: dict[str, np.ndarray], unknown: dict[str, np.ndarray]) -> np.ndarray:
    """What the pairs of a chunk add to the premium of a split.

    Args:
        lengths: Tokens of each line of each side, integers [pairs].
        unknown: Unknown tokens among them.

    Returns:
        int64 [3]: the sums of target over source and of source over target in units of 1 / FIXED, and their number.
    """
    counted = np.logical_and.reduce([(lengths[s] > 0) & (unknown[s] <= MOST_UNKNOWN * lengths[s]) for s in PREMIUM])
    source, target = (lengths[side][counted].astype(np.float64) for side in PREMIUM)
    return np.array(
        [*(np.rint(FIXED * r).astype(np.int64).sum() for r in (target / source, source / target)), len(source)]
    )


def unknown_tokens(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Unknown tokens of each line, int64 [lines], of the ids of all lines, one after the other."""
    line = np.searchsorted(np.cumsum(lengths), np.flatnonzero(ids == UNK), side="right")
    return np.bincount(line, minlength=len(lengths))


def percentile(counts: np.ndarray, share: float) -> int:
    """The smallest value such that at least `share` of all are not above it (nearest rank), from counts by value."""
    return int(np.argmax(np.cumsum(counts) >= share * counts.sum()))


def bar_width(sides: Iterable[SideCounts]) -> int:
    """Tokens that each bar of the histograms spans: 99% of the lines of either side shall be below the last bar."""
    return 1 + max(percentile(side.lengths, 0.99) for side in sides) // (BARS - 1)


def table(report: dict[str, Any]) -> str:
    """The report for people, but for where the store is and how long it took."""
    sizes = [facts["size"] for facts in report["vocabularies"].values()]
    shared = len({facts["digest"] for facts in report["vocabularies"].values()}) == 1
    sections = [
        ["vocabulary: " + (f"{sizes[0]} shared" if shared else " + ".join(map(str, sizes)))],
        aligned(_pairs(report), right=(1, 2)),
        aligned(_tokens(report), right=range(2, 9)),
        [f"lines by their tokens, from 0 on; the last of {BARS} bars holds all that are longer"],
        aligned(_histograms(report), right=(2,)),
        [
            "premium: mean over the pairs of tokens of one side over tokens of the other",
            "(of pairs with both sides there and at most 10% of the tokens unknown)",
        ],
        aligned(_premiums(report), right=(1, 2, 3)),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections)


Rows = list[tuple[str, ...]]


def _pairs(report: dict[str, Any]) -> Rows:
    rows: Rows = [("split", "pairs read", "kept", "dropped")]
    for name, split in report["splits"].items():
        why = ", ".join(f"{count} by {rule}" for rule, count in split["dropped"].items() if count)
        rows.append((name, f"{split['read']:,}", f"{split['pairs']:,}", why or "0"))
        if len(split["corpora"]) > 1:
            rows += [(f"  {c['name']}", f"{c['read']:,}", f"{c['kept']:,}", "") for c in split["corpora"]]
    return rows


def _tokens(report: dict[str, Any]) -> Rows:
    rows: Rows = [("split", "side", "tokens", "unknown", "characters/token", "length 50%", "90%", "99%", "max")]
    for name, split, side, language in _sides(report):
        facts = split[side]
        rates = f"{100 * facts['unknown_rate']:.2f}%", f"{facts['characters_per_token']:.2f}"
        rows.append((name, language, f"{facts['tokens']:,}", *rates, *map(str, facts["lengths"].values())))
    return rows


def _histograms(report: dict[str, Any]) -> Rows:
    rows: Rows = [("split", "side", "tokens/bar", "")]
    for name, split, side, language in _sides(report):
        tokens, lines = split[side]["histogram"].values()
        rows.append((name, language, str(tokens), blocks(lines)))
    return rows


def blocks(bars: list[int]) -> str:
    """A histogram as a line; what is there is seen: the lowest block is for any number but none."""
    return "".join(BLOCKS[-(-8 * count // max(bars))] for count in bars)


def _premiums(report: dict[str, Any]) -> Rows:
    source, target = report["source_language"], report["target_language"]
    rows: Rows = [("split", f"{target}/{source}", f"{source}/{target}", "pairs")]
    for name, split in report["splits"].items():
        *means, pairs = split["premium"].values()
        rows.append((name, *("-" if mean is None else f"{mean:.3f}" for mean in means), f"{pairs:,}"))
    return rows


def _sides(report: dict[str, Any]) -> list[tuple[str, dict[str, Any], str, str]]:
    """Name and facts of a split, side and its language, for all of them."""
    names = [(side, report.get(f"{side}_language", side)) for side in report["vocabularies"]]
    return [(name, split, *side) for name, split in report["splits"].items() for side in names]


def aligned(rows: Rows, right: Iterable[int]) -> list[str]:
    """Rows as lines with aligned columns; `right` are the columns that align at their right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
