"""Reads files of lines, split at `\\n` only, as corpora are. So line N of one file belongs to line N of another."""

import sys
from contextlib import closing
from pathlib import Path

from s2s.data.lines import MAX_LINE_BYTES, STANDARD_INPUT, LineReader, decode_lines
from s2s.errors import UserError


def read_lines(path: str | Path, max_line_bytes: int = MAX_LINE_BYTES) -> list[str]:
    """The lines of a UTF-8 file, without their line ends (`\\n` or `\\r\\n`); `-` reads standard input.

    Files whose names end in .gz, .xz and .zst are decompressed, so a compressed corpus file can be a reference.

    Raises:
        UserError: the file is missing or empty, or a line (whose number is named) is too long or not UTF-8.
    """
    source = STANDARD_INPUT if path == "-" else path
    if path != "-" and not Path(path).exists():
        raise UserError(f"{path}: no such file")
    with closing(LineReader(source, max_line_bytes)) as reader:
        content = b"".join(reader.read(sys.maxsize))
    if not content:
        raise UserError(f"{source}: is empty; there is nothing to score")
    return decode_lines(content, str(source), first_line=1)
