"""Checks for unknown tokens: warns if there are many, and guesses the reason."""

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

MUCH = 0.2  # a warning is given if the share of unknown tokens of a side exceeds this
ENOUGH = 1000  # tokens from which the share of unknown ones is known well enough
LINES = 100  # maximum number of lines with unknown tokens from which to guess the reason
LONGEST = 1000  # maximum length of such a line, in characters
SHOWN = 3  # maximum number of unknown words in a message

HAS = "the vocabulary has them"
BESIDE = re.compile(r"(?<=\w)(?=[^\w\s])|(?<=[^\w\s])(?=\S)")  # between words and punctuation

# Changes that may have been applied to the text of the vocabulary, but not to this text.
CHANGES: dict[str, Callable[[str], str]] = {
    f"{HAS} in lower case (tokenizer.lowercase=true)": str.lower,
    f"{HAS} in upper case": str.upper,
    f"{HAS} in Unicode's form NFC (tokenizer.normalization=nfc)": partial(unicodedata.normalize, "NFC"),
    f"{HAS} in Unicode's form NFKC (tokenizer.normalization=nfkc)": partial(unicodedata.normalize, "NFKC"),
    f"{HAS} with punctuation separated; tokenize this text in the same way": partial(BESIDE.sub, " "),
}


def unknown_lines(text: str, unknown: np.ndarray, lengths: np.ndarray) -> list[str]:
    """Some of the lines with unknown tokens; none if there are only few unknown tokens.

    Args:
        text: Lines with line feeds between them.
        unknown: Number of unknown tokens of each line, integers [lines].
        lengths: Number of tokens of each line, integers [lines].
    """
    if unknown.sum() <= MUCH * lengths.sum():
        return []
    lines = text.split("\n")
    return [lines[number][:LONGEST] for number in np.flatnonzero(unknown)[:LINES]]


class Watch:
    """Counts the unknown tokens of texts that are decoded, and warns once if there are many.

    Args:
        what: What the texts are, for the message.
        tokenizer: Their tokenizer.
        say: Gets the warning.
    """

    def __init__(self, what: str, tokenizer: Tokenizer, say: Callable[[str], None]):
        self.what, self.tokenizer, self.say = what, tokenizer, say
        self.counts, self.lines = {"tokens": 0, "unknown": 0}, list[str]()
        self.warned = False

    def add(self, sources: list[list[int]], lines: list[str]) -> None:
        """Count the ids of more texts. If there are enough of them, the warning does not wait for the end."""
        for ids, line in zip(sources, lines, strict=True):
            self.counts["tokens"] += len(ids)
            if unknown := ids.count(UNK):
                self.counts["unknown"] += unknown
                if len(self.lines) < LINES:
                    self.lines.append(line[:LONGEST])
        if self.counts["tokens"] >= ENOUGH:
            self.check()

    def check(self) -> None:
        """Warn, unless it was done before."""
        if not self.warned and self.counts["unknown"] > MUCH * self.counts["tokens"]:
            self.warned = True
            check_unknown(self.what, self.tokenizer, None, self.counts, self.lines, False, self.say)


def warn(message: str) -> None:
    """Print a warning on standard error."""
    print(f"warning: {message}", file=sys.stderr)


def check_unknown(what: str, tokenizer: Tokenizer, other: Tokenizer | None, counts: dict[str, Any], lines: list[str],
                  training: bool, say: Callable[[str], None] = warn) -> None:  # fmt: skip
    """Warn if there are many unknown tokens.

    Args:
        what: Split and side, for the message.
        tokenizer: Tokenizer of this side.
        other: Tokenizer of the other side, if there is one.
        counts: The numbers of `tokens` and of `unknown` ones among them.
        lines: Some lines with unknown tokens.
        training: Whether these are training data.
        say: Gets the warning.

    Raises:
        UserError: all tokens of training data are unknown.
    """
    tokens, unknown = counts["tokens"], counts["unknown"]
    if unknown <= MUCH * tokens:
        return
    message = f"{what}: {100 * unknown / tokens:.0f}% of the tokens are unknown, such as {_shown(tokenizer, lines)}: "
    message += _reason(tokenizer, other, lines)
    if training and unknown == tokens:
        raise UserError(f"{message}; a model cannot learn anything from it")
    say(message)


def _shown(tokenizer: Tokenizer, lines: list[str]) -> str:
    words = dict.fromkeys(word for line in lines for word in line.split() if UNK in tokenizer.encode(word))
    return ", ".join(repr(word[:40]) for word in list(words)[:SHOWN])


def _reason(tokenizer: Tokenizer, other: Tokenizer | None, lines: list[str]) -> str:
    symbols = tokenizer.vocabulary.symbols
    if tokenizer.config.type == "words":
        for mark in ("\u2581", "@@"):
            if sum(mark in symbol for symbol in symbols) > len(symbols) / 10:
                return f"the vocabulary consists of word pieces, with {mark}; this text must be split into them"
    most = _unknown(tokenizer, lines) / 2
    for reason, change in CHANGES.items():
        if _unknown(tokenizer, [change(line) for line in lines]) <= most:
            return reason
    if other is not None and _unknown(other, lines) <= most:
        return "the vocabulary of the other side has them: source and target may be swapped"
    return "the vocabulary is too small, of another language, or of text that was tokenized in another way"


def _unknown(tokenizer: Tokenizer, lines: list[str]) -> int:
    return int(np.count_nonzero(tokenizer.encode_flat(lines)[0] == UNK))
