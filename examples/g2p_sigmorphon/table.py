"""Error rates of several languages beside the published ones. Usage: python table.py FOLDER/LANGUAGE/scores.json ..."""

import json
import sys
from pathlib import Path

# fairseq's character Transformer (4 layers, width 256): test word error rates as published with its outputs;
# phoneme error rates are those of the same outputs by s2s-score.
PUBLISHED = {
    "arm_e": (8.90, 1.34),
    "dut": (16.90, 3.37),
    "fre": (10.20, 2.45),
    "hun": (1.90, 0.36),
    "jpn_hira": (8.50, 2.14),
}


def table(scores: dict[str, dict]) -> str:
    """A row for each language, `-` where nothing is published, and one for the mean of those with published figures.

    Args:
        scores: `s2s-score format=json metrics=[ser,per]` of each language.
    """
    rows = {
        name: (score["ser"]["value"], score["per"]["value"], *PUBLISHED.get(name, (None, None)))
        for name, score in scores.items()
    }
    compared = [row for row in rows.values() if None not in row]
    if compared:
        rows["mean"] = tuple(sum(column) / len(compared) for column in zip(*compared, strict=True))
    lines = [
        f"{'':<10} {'word error rate':>20}  {'phoneme error rate':>20}",
        f"{'language':<10} {'s2s':>10} {'fairseq':>9}  {'s2s':>10} {'fairseq':>9}",
    ]
    for name, row in rows.items():
        ours_words, ours_phonemes, words, phonemes = ("-" if rate is None else f"{rate:.2f}" for rate in row)
        lines.append(f"{name:<10} {ours_words:>10} {words:>9}  {ours_phonemes:>10} {phonemes:>9}")
    if 0 < len(compared) < len(scores):
        lines.append(f"(mean of the {len(compared)} with published figures)")
    return "\n".join(lines)


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:]]
    print(table({file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}))
