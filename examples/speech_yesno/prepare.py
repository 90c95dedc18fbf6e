"""yesno as manifests: one TSV for each split.

Usage: python prepare.py DATA_FOLDER OUTPUT_FOLDER

DATA_FOLDER holds the 60 recordings, .flac or .wav. Their names are what is said: 0_1_1_0_1_0_0_0 is NO YES YES NO ...
Writes train.tsv, valid.tsv and test.tsv into OUTPUT_FOLDER: by name, the first 27 recordings train, the next
4 are valid, the last 29 are test (the test part of Kaldi's recipe).
"""

import sys
from pathlib import Path

SPLITS = {"train": slice(0, 27), "valid": slice(27, 31), "test": slice(31, 60)}
WORDS = {"0": "NO", "1": "YES"}


def words(name: str) -> str:
    """What is said in a recording of this name, without its ending."""
    return " ".join(WORDS[digit] for digit in name.split("_"))


def write(data: Path, out: Path) -> None:
    """Write the files that the module's docstring lists."""
    recordings = sorted(path.resolve() for ending in ("flac", "wav") for path in data.glob(f"[01]_*.{ending}"))
    if len(recordings) != 60:
        sys.exit(f"{data}: 60 recordings were expected, {len(recordings)} found")
    out.mkdir(parents=True, exist_ok=True)
    for name, places in SPLITS.items():
        rows = ["id\taudio\ttext", *(f"{path.stem}\t{path}\t{words(path.stem)}" for path in recordings[places])]
        (out / f"{name}.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.split("\n\n")[1])
    write(Path(sys.argv[1]), Path(sys.argv[2]))
