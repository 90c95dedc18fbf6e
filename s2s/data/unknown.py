"""Text that a vocabulary does not know: how much of it makes training senseless, and what the reason may be."""

import re
import sys
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from s2s.errors import UserError
from s2s.text.tokenizer import Tokenizer
from s2s.text.vocabulary import UNK

MUCH = 0.2  # share of a side's tokens: with more unknown ones there is a warning
LINES = 100  # with unknown tokens that are looked at for the reason
LONGEST = 1000  # characters of such a line
SHOWN = 3  # unknown words that a message shows

HAS = "the vocabulary has them"
BESIDE = re.compile(r"(?<=\w)(?=[^\w\s])|(?<=[^\w\s])(?=\S)")  # where punctuation is put apart

# What may have been done to the text of the vocabulary and not to this one.
CHANGES: dict[str, Callable[[str], str]] = {
    f"{HAS} in lower case (tokenizer.lowercase=true)": str.lower,
    f"{HAS} in upper case": str.upper,
    f"{HAS} in Unicode's form NFC (tokenizer.normalization=nfc)": partial(unicodedata.normalize, "NFC"),
    f"{HAS} in Unicode's form NFKC (tokenizer.normalization=nfkc)": partial(unicodedata.normalize, "NFKC"),
    f"{HAS} without the punctuation beside them: this text has to be tokenized as that one was": partial(
        BESIDE.sub, " "
    ),
}


def unknown_lines(text: str, unknown: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Some of the lines with unknown tokens, where these are many.

    Args:
        text: Lines with line feeds between them.
        unknown: Unknown tokens of each line, integers [lines].
        lengths: All tokens of each line.
    """
    if unknown.sum() <= MUCH * lengths.sum():
        return []
    lines = text.split("\n")
    return [lines[number][:LONGEST] for number in np.flatnonzero(unknown)[:LINES]]


def check_unknown(
    what: str, tokenizer: Tokenizer, other: Tokenizer | None, counts: dict[str, Any], lines: list[str], training: bool
) -> None:
    """Warn of much that is unknown.

    Args:
        what: The split and its side.
        tokenizer: Of this side.
        other: Of the other side, if there is one.
        counts: `tokens` and `unknown` ones among them.
        lines: Some with unknown tokens.
        training: Whether it is learned from.

    Raises:
        UserError: `training`, and everything is unknown.
    """
    tokens, unknown = counts["tokens"], counts["unknown"]
    if unknown <= MUCH * tokens:
        return
    said = f"{what}: {100 * unknown / tokens:.0f}% of the tokens are unknown, such as {_shown(tokenizer, lines)}: "
    said += _reason(tokenizer, other, lines)
    if training and unknown == tokens:
        raise UserError(f"{said}; a model cannot learn anything from it")
    print(f"warning: {said}", file=sys.stderr)


def _shown(tokenizer: Tokenizer, lines: list[str]) -> str:
    words = dict.fromkeys(word for line in lines for word in line.split() if UNK in tokenizer.encode(word))
    return ", ".join(repr(word[:40]) for word in list(words)[:SHOWN])


def _reason(tokenizer: Tokenizer, other: Tokenizer | None, lines: list[str]) -> str:
    symbols = tokenizer.vocabulary.symbols
    if tokenizer.config.type == "words":
        for mark in ("\u2581", "@@"):
            if sum(mark in symbol for symbol in symbols) > len(symbols) / 10:
                return f"the vocabulary is one of pieces, with {mark}, and this text has to be cut into them"
    most = _unknown(tokenizer, lines) / 2
    for reason, change in CHANGES.items():
        if _unknown(tokenizer, [change(line) for line in lines]) <= most:
            return reason
    if other is not None and _unknown(other, lines) <= most:
        return "the vocabulary of the other side has them: source and target may be swapped"
    return "the vocabulary is too small, or that of another language, or of a text that was tokenized in another way"


def _unknown(tokenizer: Tokenizer, lines: list[str]) -> int:
    return int(np.count_nonzero(tokenizer.encode_flat(lines)[0] == UNK))
