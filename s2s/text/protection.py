"""Protected parts of lines: what a pattern of `tokenizer.protect` matches, such as a placeholder or a tag, is kept.

A protected part is neither normalised nor lower-cased nor rewritten by the pre-tokenizer, and decoding gives it back.
Where there is a pre-tokenizer, the tokenizer reads a mark before and after each part, so that decoding knows which text
to leave alone. The marks are code points that Unicode reserves for internal use; the text may have them too.
"""

import re
from collections.abc import Callable, Sequence

from s2s.errors import UserError
from s2s.text.pretokenizers.pretokenizer import PreTokenizer

BEGIN, END, ESCAPE = "\ufdd0", "\ufdd1", "\ufdd2"
MARKS = BEGIN + END + ESCAPE
DIGITS = "012"
ESCAPED = str.maketrans({mark: ESCAPE + digit for mark, digit in zip(MARKS, DIGITS, strict=True)})
WRITTEN = re.compile(f"{ESCAPE}([{DIGITS}])")
PART = re.compile(f"{BEGIN}([^{END}]*){END}")


class Protection:
    """The protected parts of lines.

    Args:
        patterns: Regular expressions.
        pre: The pre-tokenizer; None: there is none.

    Raises:
        UserError: a pattern is not a regular expression.
    """

    def __init__(self, patterns: Sequence[str], pre: PreTokenizer | None):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise UserError(f"protect={pattern}: not a regular expression: {error}") from error
        marks = [f"[{MARKS}]"] if pre is not None else []
        self.pattern = re.compile("|".join(f"(?:{pattern})" for pattern in (*patterns, *marks)))
        self.pre = pre

    def normalise(self, lines: list[str], normalise: Callable[[list[str]], list[str]]) -> list[str]:
        """Normalise the lines, except for protected parts, which get marks if there is a pre-tokenizer."""
        return [self._normalised(line, normalise) for line in lines]

    def _normalised(self, line: str, normalise: Callable[[list[str]], list[str]]) -> str:
        others, parts, end = [], [], 0
        for match in self.pattern.finditer(line):
            if match.end() > match.start():
                others.append(line[end : match.start()])
                parts.append(match[0])
                end = match.end()
        others = [normalise([other])[0] for other in (*others, line[end:])]
        if self.pre is not None:
            parts = [f"{BEGIN}{part.translate(ESCAPED)}{END}" for part in parts]
        return "".join(text for pair in zip(others, (*parts, ""), strict=True) for text in pair)

    def apply(self, line: str) -> str:
        """Rewrite a normalised line by the pre-tokenizer, except for protected parts."""
        if self.pre is None or self.pre.whole:
            return line if self.pre is None else self.pre.apply(line)
        texts = PART.split(line)
        texts[::2] = [_inside(self.pre.apply, text) for text in texts[::2]]
        texts[1::2] = [f"{BEGIN}{text}{END}" for text in texts[1::2]]
        return "".join(texts)

    def undo(self, text: str) -> str:
        """The inverse of `apply`, without marks."""
        if self.pre is None:
            return text
        texts = PART.split(self.pre.undo(text) if self.pre.whole else text)
        if not self.pre.whole:
            texts[::2] = [_inside(self.pre.undo, other) for other in texts[::2]]
        texts[::2] = [other.translate(dict.fromkeys(map(ord, MARKS))) for other in texts[::2]]  # a model may err
        texts[1::2] = [WRITTEN.sub(lambda match: MARKS[int(match[1])], part) for part in texts[1::2]]
        return "".join(texts)


def _inside(function: Callable[[str], str], text: str) -> str:
    """The function of a text; spaces at its ends, which separate it from protected parts, stay."""
    core = text.strip(" ")
    if not core:
        return text
    begin = len(text) - len(text.lstrip(" "))
    return text[:begin] + function(core) + text[begin + len(core) :]
