"""The formats that s2s-import reads, and how a model's format is recognised."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from s2s.errors import UserError
from s2s.interop.importing.imported import Imported

# Name -> module with `recognises(path)`, whether a folder or file is in the format, `read(path)`, and maybe OPTIONS:
# options of s2s-import that its `read` has, too.
FORMATS = {
    "fairseq": "s2s.interop.importing.fairseq",
    "g2p_en": "s2s.interop.importing.g2p_en",  # before Marian, to which every .npz belongs
    "marian": "s2s.interop.importing.marian_npz",
    "opennmt": "s2s.interop.importing.opennmt",
    "joeynmt": "s2s.interop.importing.joeynmt",
    "ctranslate2": "s2s.interop.importing.ctranslate2",
    "huggingface": "s2s.interop.importing.huggingface",  # the last one, as other folders have a config.json too
}


def read(path: Path, format: str = "auto", options: Mapping[str, Any] = MappingProxyType({})) -> Imported:
    """Read a model.

    Args:
        path: Its folder or file.
        format: One of FORMATS; auto: the one that recognises it.
        options: Those of s2s-import that only some formats have; an empty one is not given.

    Raises:
        UserError: there is no such file, no format recognises it, it is damaged or of an unknown family, or the
            format does not have an option.
    """
    if not path.exists():
        raise UserError(f"from={path}: no such file or folder")
    if format == "auto":
        kinds = [name for name in FORMATS if module(name).recognises(path)]
        if not kinds:
            raise UserError(f"from={path}: in none of the formats that are known: {', '.join(FORMATS)}; format=NAME "
                            "says what is missing")  # fmt: skip
        format = kinds[0]
    given = {name: value for name, value in options.items() if value}
    for name in given:
        if name not in getattr(module(format), "OPTIONS", ()):
            raise UserError(f"{name}: does nothing with format={format}")
    return module(format).read(path, **given)


def module(name: str):
    """The module of a format."""
    return importlib.import_module(FORMATS[name])
