"""Manifests: what the files of a store's or a checkpoint's folder are, with their hashes, and the manifest's own.

    manifest.json      format, and of every other file its size and SHA-256
    manifest.sha256    the SHA-256 of manifest.json, as sha256sum writes it: `sha256sum -c manifest.sha256`

So one that was damaged or comes from elsewhere is found to be wrong by itself, and no file of the folder is blamed.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from s2s import __version__
from s2s.config.documents import read_json
from s2s.config.shapes import Shape, conform, text
from s2s.errors import UserError
from s2s.files import file_hash, write

MANIFEST, SEAL = "manifest.json", "manifest.sha256"
SHA256 = text("[0-9a-f]{64}", "a SHA-256 in hexadecimal")
NAME = text(r"(?!\.)[\w.-]+", "the name of a file in this folder")
PATH = text(r"(?!\.)[\w.-]+(/(?!\.)[\w.-]+)*", "the path of a file in this folder")


def read_manifest(folder: Path, shape: Shape, formats: Sequence[int], remedy: str) -> dict[str, Any]:
    """The manifest of a folder.

    Args:
        folder: Of a store or a checkpoint.
        shape: What it must hold.
        formats: Those that are read. But for the first one, a manifest has its hash beside it.
        remedy: The end of each message.

    Raises:
        UserError: the manifest is missing, damaged, or of another format.
    """
    path, seal = folder / MANIFEST, folder / SEAL
    found = read_json(path, {"format": int, ...: object}, remedy)
    if found["format"] not in formats:
        raise UserError(f"{path}: format {found['format']}, this version ({__version__}) reads "
                        f"{' and '.join(map(str, formats))}; {remedy}")  # fmt: skip
    if seal.is_file():
        if seal.read_bytes() != _sealed(path):
            raise UserError(f"{path}: damaged, or of another folder: its SHA-256 is not the one in {seal}; {remedy}")
    elif found["format"] != formats[0]:
        raise UserError(f"{seal}: missing; {remedy}")
    try:
        return conform(found, shape, str(path))
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest and its hash. Raises OSError naming the file."""
    write(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write(folder / SEAL, _sealed(folder / MANIFEST))


def _sealed(path: Path) -> bytes:
    return f"{file_hash(path)}  {path.name}\n".encode()
