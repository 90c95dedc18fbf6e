"""The report of a store of text: counts are gathered chunk by chunk, turned into facts, and formatted.

The memory for counting depends on the longest line, not on the number of lines. All sums are of integers, so the facts
do not depend on how lines are divided into chunks.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np

from s2s.text.vocabulary import UNK

BARS = 40  # maximum number of bars of a histogram
PERCENTILES = {"50%": 0.5, "90%": 0.9, "99%": 0.99, "max": 1.0}
MOST_UNKNOWN = 0.1  # maximum share of unknown tokens on a side of a pair that counts for the premium
PREMIUM = ("source", "target")  # the sides that the premium compares
FIXED = 1 << 24  # scale of ratios that are stored as integers
BLOCKS = " ▁▂▃▄▅▆▇█"


class SideCounts:
    """Counts of one side of a split."""

    def __init__(self):
        self.lengths = np.zeros(1, np.int64)  # lines by their number of tokens
        self.unknown = self.characters = 0

    def add(self, lengths: np.ndarray, unknown: int, characters: int) -> None:
        """Add lines: the number of tokens of each [lines], and the unknown tokens and characters of all."""
        new = np.bincount(lengths, minlength=len(self.lengths))
        new[: len(self.lengths)] += self.lengths
        self.lengths = new
        self.unknown += unknown
        self.characters += characters

    def facts(self, bar: int) -> dict[str, Any]:
        """Facts for the report; `bar`: width of a bar of the histogram, in tokens."""
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
    """The tokenizer premium (Petrov et al. 2023, arXiv:2305.15425): the mean over pairs of the tokens of one side
    divided by the tokens of the other, in both directions.

    Only pairs count that have tokens on both sides, at most a tenth of them unknown. Without such pairs it is None.

    Args:
        sums: The sum of the `premium_sums` of all chunks, integers of any size.
    """
    *ratios, pairs = sums
    means = [round(ratio / FIXED / pairs, 4) if pairs else None for ratio in ratios]
    return {"target_over_source": means[0], "source_over_target": means[1], "pairs": int(pairs)}


def premium_sums(lengths: dict[str, np.ndarray], unknown: dict[str, np.ndarray]) -> np.ndarray:
    """The sums of the tokenizer premium over the pairs of a chunk.

    Args:
        lengths: Side -> number of tokens of each line, integers [pairs].
        unknown: Side -> number of unknown tokens of each line, integers [pairs].

    Returns:
        int64 [3]: the sums of target / source and of source / target, in units of 1 / FIXED, and the number of pairs
        that count.
    """
    counted = np.logical_and.reduce([(lengths[s] > 0) & (unknown[s] <= MOST_UNKNOWN * lengths[s]) for s in PREMIUM])
    source, target = (lengths[side][counted].astype(np.float64) for side in PREMIUM)
    return np.array(
        [*(np.rint(FIXED * r).astype(np.int64).sum() for r in (target / source, source / target)), len(source)]
    )


def unknown_tokens(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The number of unknown tokens of each line, int64 [lines].

    Args:
        ids: Concatenated token ids of all lines.
        lengths: Number of tokens of each line.
    """
    line = np.searchsorted(np.cumsum(lengths), np.flatnonzero(ids == UNK), side="right")
    return np.bincount(line, minlength=len(lengths))


def percentile(counts: np.ndarray, share: float) -> int:
    """The percentile by nearest rank: the smallest value that is not below at least `share` of all values.

    Args:
        counts: counts[v] is how often the value v occurs.
        share: From 0 to 1.
    """
    return int(np.argmax(np.cumsum(counts) >= share * counts.sum()))


def bar_width(sides: Iterable[SideCounts]) -> int:
    """The width of a histogram bar in tokens, such that 99% of the lines of each side are below the last bar."""
    return 1 + max(percentile(side.lengths, 0.99) for side in sides) // (BARS - 1)


def table(report: dict[str, Any]) -> str:
    """The report as readable text, without the path of the store and the time taken."""
    sizes = [facts["size"] for facts in report["vocabularies"].values()]
    shared = len({facts["digest"] for facts in report["vocabularies"].values()}) == 1
    compared = all("premium" in split for split in report["splits"].values())
    sections = [
        ["vocabulary: " + (f"{sizes[0]} shared" if shared else " + ".join(map(str, sizes)))],
        aligned(_pairs(report), right=(1, 2)),
        aligned(_tokens(report), right=range(2, 9)),
        [f"lines by number of tokens, from 0; the last of {BARS} bars has all longer lines"],
        aligned(_histograms(report), right=(2,)),
        [
            "premium: mean over pairs of the tokens of one side divided by the tokens of the other",
            "(pairs with tokens on both sides, at most 10% of them unknown)",
        ],
        aligned(_premiums(report), right=(1, 2, 3)) if compared else [],
    ]
    return "\n\n".join("\n".join(lines) for lines in (sections if compared else sections[:-2]))


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
    """A histogram as a line of block characters; any count above 0 has at least the lowest block."""
    return "".join(BLOCKS[-(-8 * count // max(bars))] for count in bars)


def _premiums(report: dict[str, Any]) -> Rows:
    source, target = report["source_language"], report["target_language"]
    rows: Rows = [("split", f"{target}/{source}", f"{source}/{target}", "pairs")]
    for name, split in report["splits"].items():
        *means, pairs = split["premium"].values()
        rows.append((name, *("-" if mean is None else f"{mean:.3f}" for mean in means), f"{pairs:,}"))
    return rows


def _sides(report: dict[str, Any]) -> list[tuple[str, dict[str, Any], str, str]]:
    """(name of split, facts of split, side, language) for all splits and sides."""
    names = [(side, report.get(f"{side}_language", side)) for side in report["vocabularies"]]
    return [(name, split, *side) for name, split in report["splits"].items() for side in names]


def aligned(rows: Rows, right: Iterable[int]) -> list[str]:
    """Format rows as lines with aligned columns; right: the columns that are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
