"""`s2s-preprocess`: raw parallel text to a store."""

import json
import signal
import sys
from typing import Any

from s2s.config import command
from s2s.data.preprocess import SIDES, PreprocessConfig, preprocess

ABOUT = "Learns tokenizers on raw parallel text and writes a binarised store for s2s-train and s2s-generate."


def main() -> None:
    """Run the command."""
    # A polite kill cleans up like an interrupt.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    command.run("s2s-preprocess", PreprocessConfig, run, ABOUT)


def run(config: PreprocessConfig) -> None:
    """Make the store and print its report."""
    report = preprocess(config)
    print(json.dumps(report, indent=2, ensure_ascii=False) if config.format == "json" else table(report))


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [f"{report['store']}: {report['source_language']} to {report['target_language']}, {report['seconds']} s"]
    sizes = {side: facts["size"] for side, facts in report["vocabularies"].items()}
    shared = report["vocabularies"]["source"]["digest"] == report["vocabularies"]["target"]["digest"]
    lines.append(
        f"vocabulary: {sizes['source']} shared" if shared else "vocabulary: {source} + {target}".format(**sizes)
    )
    rows = [("split", "pairs read", "kept", "dropped")]
    for name, split in report["splits"].items():
        why = ", ".join(f"{count} by {rule}" for rule, count in split["dropped"].items() if count)
        rows.append((name, f"{split['read']:,}", f"{split['pairs']:,}", why or "0"))
        if len(split["corpora"]) > 1:
            rows += [(f"  {c['name']}", f"{c['read']:,}", f"{c['kept']:,}", "") for c in split["corpora"]]
    lines += ["", *_aligned(rows, right=(1, 2))]
    rows = [("split", "side", "tokens", "unknown", "characters/token", "length 50%", "90%", "99%", "max")]
    for name, split in report["splits"].items():
        for side in SIDES:
            facts = split[side]
            rates = f"{100 * facts['unknown_rate']:.2f}%", f"{facts['characters_per_token']:.2f}"
            language = report[f"{side}_language"]
            rows.append((name, language, f"{facts['tokens']:,}", *rates, *map(str, facts["lengths"].values())))
    return "\n".join([*lines, "", *_aligned(rows, right=range(2, 9))])


def _aligned(rows: list[tuple[str, ...]], right) -> list[str]:
    """Rows as lines with aligned columns; `right` are the columns that align at their right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


if __name__ == "__main__":
    main()
