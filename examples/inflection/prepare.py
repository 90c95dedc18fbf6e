"""Lemma, form and features of SIGMORPHON 2022 to what s2s-preprocess reads. Usage: python prepare.py IN.tsv OUT.tsv

A source is the features, each a symbol such as [PL], and the letters of the lemma; a target is the letters of the form.
Symbols have spaces between them, and a space of the text is `_`.
"""

import sys
from pathlib import Path


def prepared(line: str, place: str) -> str:
    """A line of the three columns as source, tab and target. Raises ValueError, which names the place."""
    columns = line.split("\t")
    if len(columns) != 3 or not all(columns):
        raise ValueError(f"{place}: lemma, form and features are needed with tabs between them, not {line!r}")
    lemma, form, features = columns
    symbols = [f"[{feature}]" for feature in features.split(";")]
    return f"{' '.join([*symbols, *letters(lemma)])}\t{' '.join(letters(form))}"


def letters(word: str) -> list[str]:
    """The symbols of a word."""
    return list(word.replace(" ", "_"))


if __name__ == "__main__":
    read, written = map(Path, sys.argv[1:])
    lines = read.read_text(encoding="utf-8").splitlines()
    try:
        rows = [prepared(line, f"{read}:{number}") for number, line in enumerate(lines, 1)]
    except ValueError as error:
        sys.exit(str(error))
    written.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
