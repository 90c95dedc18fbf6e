"""Whole files of lines, split as corpora are: at `\\n` only. Line N of one file stays beside line N of another."""

import sys
from contextlib import closing
from pathlib import Path

from s2s.data.corpus import LineReader, decode_lines
from s2s.errors import UserError


def read_lines(path: str | Path) -> list[str]:
    """The lines of a UTF-8 file, without their line ends (`\\n` or `\\r\\n`); `-` reads standard input.

    Files ending in .gz, .xz and .zst are decompressed, so that a corpus file can be a reference as it is.

    Raises:
        UserError: no such file, no line in it, or a line that is not UTF-8 (its number is named).
    """
    name = "standard input" if path == "-" else str(path)
    if path == "-":
        content = sys.stdin.buffer.read()
    elif Path(path).is_dir():
        raise UserError(f"{name}: is a folder; a file of lines is needed")
    elif not Path(path).exists():
        raise UserError(f"{name}: no such file")
    else:
        with closing(LineReader(Path(path))) as reader:
            content = b"".join(reader.read(sys.maxsize))
    if not content:
        raise UserError(f"{name}: is empty; there is nothing to score")
    return decode_lines(content, name, first_line=1)
