"""Folders of Hugging Face's transformers: config.json, weights, and the files of a tokenizer. Its code is not used."""

import importlib
from pathlib import Path

from s2s.errors import UserError
from s2s.interop.importing.imported import Folder, Imported

# `model_type` of config.json -> module with `read(folder)`.
FAMILIES = {
    "marian": "s2s.interop.importing.marian",
    "bart": "s2s.interop.importing.bart",
    "mbart": "s2s.interop.importing.bart",
    "m2m_100": "s2s.interop.importing.bart",
    "pegasus": "s2s.interop.importing.bart",
    "bert": "s2s.interop.importing.bert",
    "roberta": "s2s.interop.importing.bert",
    "xlm-roberta": "s2s.interop.importing.bert",
    "fsmt": "s2s.interop.importing.fsmt",
    "t5": "s2s.interop.importing.t5",
    "mt5": "s2s.interop.importing.t5",
    "whisper": "s2s.interop.importing.whisper",
}


def recognises(path: Path) -> bool:
    """Whether a path is such a folder, or its config.json."""
    return (path / "config.json").is_file() or path.name == "config.json"


def read(path: Path) -> Imported:
    """Read a model. Raises UserError: files are missing or damaged, or its family is unknown."""
    folder = Folder(path)
    family = folder.config.get("model_type")
    if family not in FAMILIES:
        raise UserError(f"{folder.path / 'config.json'}: model_type={family!r}: no such family is known; "
                        f"{', '.join(FAMILIES)} are")  # fmt: skip
    return importlib.import_module(FAMILIES[family]).read(folder)
