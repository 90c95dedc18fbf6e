"""Files of lines as they are: split at `\\n` only, so that line N of one file stays beside line N of another."""

import sys
from pathlib import Path

from s2s.errors import UserError


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, without their line ends (`\\n` or `\\r\\n`); `-` reads standard input.

    Raises:
        UserError: no such file, no line in it, or a line that is not UTF-8 (its number is named).
    """
    name = "standard input" if path == "-" else path
    if path == "-":
        content = sys.stdin.buffer.read()
    elif Path(path).is_dir():
        raise UserError(f"{path}: is a folder; a file of lines is needed")
    elif not Path(path).exists():
        raise UserError(f"{path}: no such file")
    else:
        content = Path(path).read_bytes()
    if not content:
        raise UserError(f"{name}: is empty; there is nothing to score")
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{name}:{number}: not valid UTF-8 (byte {content[error.start]:#04x})") from None
    if not lines[-1]:
        lines.pop()  # what follows the last line's end is no line
    return [line.removesuffix("\r") for line in lines]
