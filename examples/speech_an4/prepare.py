"""Divide a manifest of AN4 by speaker: prepare.py MANIFEST FOLDER writes train.tsv, valid.tsv and test.tsv.

A hash of the speaker's name decides (SHA-256, modulo 100: below 18 test, below 26 validation, else training), so that
no speaker is in two parts, and each stays in its part in any manifest with the columns id, audio, tgt_text, speaker.
Paths are taken from the manifest's folder, and are absolute in what is written.
"""

import csv
import hashlib
import sys
from pathlib import Path

TEST, VALID = 18, 26
FORMAT = {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "lineterminator": "\n"}


def part(speaker: str) -> str:
    """The part of a speaker."""
    number = int(hashlib.sha256(speaker.encode()).hexdigest(), 16) % 100
    return "test" if number < TEST else "valid" if number < VALID else "train"


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    manifest, folder = Path(sys.argv[1]), Path(sys.argv[2])
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, **{key: FORMAT[key] for key in ("delimiter", "quoting")}))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test"):
        mine = [row for row in rows if part(row["speaker"]) == name]
        with (folder / f"{name}.tsv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, **FORMAT)
            writer.writerow(("id", "audio", "text", "speaker"))
            for row in mine:
                writer.writerow(
                    (row["id"], (manifest.parent / row["audio"]).resolve(), row["tgt_text"], row["speaker"])
                )
        speakers = len({row["speaker"] for row in mine})
        print(f"{name}: {len(mine)} utterances of {speakers} speakers", file=sys.stderr)


if __name__ == "__main__":
    main()
