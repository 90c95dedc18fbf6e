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
    """A row for each language and one for their mean, from language -> `s2s-score format=json metrics=[ser,per]`."""
    rows = {name: (score["ser"]["value"], score["per"]["value"], *PUBLISHED[name]) for name, score in scores.items()}
    rows["mean"] = tuple(sum(column) / len(rows) for column in zip(*rows.values(), strict=True))
    lines = [
        f"{'':<10} {'word error rate':>20}  {'phoneme error rate':>20}",
        f"{'language':<10} {'s2s':>10} {'fairseq':>9}  {'s2s':>10} {'fairseq':>9}",
    ]
    for name, (ours_words, ours_phonemes, words, phonemes) in rows.items():
        lines.append(f"{name:<10} {ours_words:>10.2f} {words:>9.2f}  {ours_phonemes:>10.2f} {phonemes:>9.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    files = [Path(name) for name in sys.argv[1:]]
    print(table({file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in files}))
