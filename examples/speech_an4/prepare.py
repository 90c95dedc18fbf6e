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


def part(speaker: str) -> str:
    """The part of a speaker."""
    number = int(hashlib.sha256(speaker.encode()).hexdigest(), 16) % 100
    return "test" if number < TEST else "valid" if number < VALID else "train"


def write(manifest: Path, folder: Path) -> None:
    """Write the parts of a manifest into a folder."""
    with manifest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "valid", "test"):
        mine = [row for row in rows if part(row["speaker"]) == name]
        with (folder / f"{name}.tsv").open("w", encoding="utf-8", newline="\n") as file:
            file.write("id\taudio\ttext\tspeaker\n")
            for row in mine:
                audio = (manifest.parent / row["audio"]).resolve()
                file.write(f"{row['id']}\t{audio}\t{row['tgt_text']}\t{row['speaker']}\n")
        speakers = len({row["speaker"] for row in mine})
        print(f"{name}: {len(mine)} utterances of {speakers} speakers", file=sys.stderr)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
