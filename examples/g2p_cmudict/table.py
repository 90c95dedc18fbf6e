"""The error rates of a run as a table. Usage: python table.py SCORES.json"""

import json
import sys
from pathlib import Path


def table(scores: dict) -> str:
    """Lines of text from `s2s-score format=json metrics=[per,ser]`. A line is a word: SER is the word error rate."""
    counts = scores["per"]["counts"]
    edits = counts["substitutions"] + counts["deletions"] + counts["insertions"]
    rows = [
        ("phoneme error rate", scores["per"]["value"], edits, counts["reference_length"], "phonemes"),
        ("word error rate", scores["ser"]["value"], counts["lines_wrong"], counts["lines"], "words"),
    ]
    lines = ["CMUdict, test words, any of a word's pronunciations is right"]
    lines += [f"{name:<20} {value:6.2f} %   {wrong:,} of {total:,} {unit}" for name, value, wrong, total, unit in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
