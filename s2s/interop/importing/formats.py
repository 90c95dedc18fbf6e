"""The formats that s2s-import reads, and how a model's format is recognised."""

import importlib
from pathlib import Path

from s2s.errors import UserError
from s2s.interop.importing.imported import Imported

# Name -> module with `recognises(path)`, whether a folder or file is in the format, and `read(path)`.
FORMATS = {"huggingface": "s2s.interop.importing.huggingface"}


def read(path: Path, format: str = "auto") -> Imported:
    """Read a model.

    Args:
        path: Its folder or file.
        format: One of FORMATS; auto: the one that recognises it.

    Raises:
        UserError: there is no such file, no format recognises it, or it is damaged or of an unknown family.
    """
    if not path.exists():
        raise UserError(f"from={path}: no such file or folder")
    if format == "auto":
        kinds = [name for name in FORMATS if module(name).recognises(path)]
        if not kinds:
            raise UserError(f"from={path}: in none of the formats that are known: {', '.join(FORMATS)}; format=NAME "
                            "says what is missing")  # fmt: skip
        format = kinds[0]
    return module(format).read(path)


def module(name: str):
    """The module of a format."""
    return importlib.import_module(FORMATS[name])
