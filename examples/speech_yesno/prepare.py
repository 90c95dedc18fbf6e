"""yesno as manifests: one TSV for each split, and the test recordings' words as a reference file.

Usage: python prepare.py DATA_FOLDER OUTPUT_FOLDER

DATA_FOLDER holds the 60 recordings, .flac or .wav. Their names are what is said: 0_1_1_0_1_0_0_0 is NO YES YES NO ...
Writes train.tsv, valid.tsv, test.tsv and test.ref into OUTPUT_FOLDER: by name, the first 27 recordings train, the next
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
        part = recordings[places]
        rows = ["id\taudio\ttext", *(f"{path.stem}\t{path}\t{words(path.stem)}" for path in part)]
        write_lines(out / f"{name}.tsv", rows)
        if name == "test":
            write_lines(out / "test.ref", [words(path.stem) for path in part])


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a file whole, or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    part.replace(path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__.split("\n\n")[1])
    write(Path(sys.argv[1]), Path(sys.argv[2]))
