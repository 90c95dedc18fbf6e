"""Exact matches of several languages beside the published ones: python table.py FOLDER/LANGUAGE/scores.json ..."""

import json
import sys
from pathlib import Path

# The shared task's neural baseline on the test set, trained on the large training set.
PUBLISHED = {"got": 72.2, "hun": 77.2, "non": 85.0, "tur": 39.7}


def table(scores: dict[str, dict]) -> str:
    """A row for each language, `-` where nothing is published.

    Args:
        scores: `s2s-score format=json metrics=[exact_match,per]` of each language.
    """
    lines = [f"{'language':<10} {'exact match, %':>15} {'baseline':>9} {'letter error rate, %':>21}"]
    for name, score in scores.items():
        baseline = f"{PUBLISHED[name]:.1f}" if name in PUBLISHED else "-"
        exact, letters = score["exact_match"]["value"], score["per"]["value"]
        lines.append(f"{name:<10} {exact:>15.1f} {baseline:>9} {letters:>21.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:]]
    print(table({file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}))
