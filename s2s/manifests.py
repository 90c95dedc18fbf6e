"""Manifests list the files in the folder of a store or a checkpoint, with their hashes; a manifest has a hash itself.

    manifest.json      format, and of every other file its size and SHA-256
    manifest.sha256    the SHA-256 of manifest.json, as sha256sum writes it: `sha256sum -c manifest.sha256`

So a damaged or foreign manifest is detected by itself, and is not mistaken for damage of the other files.
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
    """Read the manifest of a folder.

    Args:
        folder: Folder of a store or a checkpoint.
        shape: The shape of the manifest.
        formats: Formats that can be read. All but the first one have manifest.sha256.
        remedy: What the user should do; ends each message.

    Raises:
        UserError: the manifest is missing or damaged, or has another format.
    """
    path, seal = folder / MANIFEST, folder / SEAL
    manifest = read_json(path, {"format": int, ...: object}, remedy)
    if manifest["format"] not in formats:
        raise UserError(f"{path}: format {manifest['format']}, this version ({__version__}) reads "
                        f"{' and '.join(map(str, formats))}; {remedy}")  # fmt: skip
    if seal.is_file():
        if seal.read_bytes() != _sealed(path):
            raise UserError(f"{path}: damaged, or of another folder: its SHA-256 is not the one in {seal}; {remedy}")
    elif manifest["format"] != formats[0]:
        raise UserError(f"{seal}: missing; {remedy}")
    try:
        return conform(manifest, shape, str(path))
    except UserError as error:
        raise UserError(f"{error}; {remedy}") from error


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest and its hash. Raises OSError that names the file."""
    write(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    write(folder / SEAL, _sealed(folder / MANIFEST))


def _sealed(path: Path) -> bytes:
    return f"{file_hash(path)}  {path.name}\n".encode()
