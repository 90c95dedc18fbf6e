"""The store: a folder of binarised parallel text that opens in milliseconds at any size.

    manifest.json               what is inside, how it was made, size and SHA-256 of every file
    source.* target.*           the tokenizers, as `Tokenizer.save` writes them
    SPLIT.SIDE.tokens           ids of all examples, one after the other, in the smallest unsigned type that fits
    SPLIT.SIDE.tokens.offsets   int64 [examples + 1]: example i lies at offsets[i]:offsets[i + 1]
    SPLIT.SIDE.text             the raw lines (validation and test splits), with offsets in bytes beside them

All numbers are little-endian. A store is written beside its place and renamed when it is complete.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from s2s.errors import UserError
from s2s.text.tokenizer import Tokenizer, load_tokenizer

FORMAT = 1
MANIFEST = "manifest.json"
SIDES = ("source", "target")
OFFSET = np.dtype("<i8")
TEXT = np.dtype("u1")


class Store:
    """A store opened for reading. Nothing but the manifest and the tokenizers' files is read until asked for.

    Args:
        path: Its folder.

    Raises:
        UserError: not a store, of a newer format, or a file whose size (of a tokenizer: hash) is not the manifest's;
            the message names the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.manifest: dict[str, Any] = _read_manifest(self.path)
        for name, facts in self.manifest["files"].items():
            self._check_size(name, facts["size"])
            if name.startswith(tuple(f"{side}." for side in SIDES)):
                self._check_hash(name, facts["sha256"])
        if digest(self.manifest) != self.digest:
            raise UserError(f"{self.path / MANIFEST}: the digest does not fit the content; make the store again")

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the data: languages, tokenizers, tokens and texts."""
        return self.manifest["digest"]

    @property
    def source_language(self) -> str:
        return self.manifest["source_language"]

    @property
    def target_language(self) -> str:
        return self.manifest["target_language"]

    @property
    def splits(self) -> list[str]:
        """Names of the splits: of train, valid, test, test1 ... those that there are."""
        return list(self.manifest["splits"])

    def split(self, name: str) -> "Split":
        """A split by name. Raises UserError naming those that there are."""
        if name not in self.manifest["splits"]:
            raise UserError(f"{self.path}: no split '{name}'; there is {', '.join(self.splits)}")
        return Split(self.path, name, self.manifest["splits"][name])

    def tokenizers(self) -> tuple[Tokenizer, Tokenizer]:
        """The tokenizers of source and target; the same object twice if they are the same."""
        source = load_tokenizer(self.path, "source")
        if all(self._hash_of("source", name) == self._hash_of("target", name) for name in self._tokenizer_files()):
            return source, source
        return source, load_tokenizer(self.path, "target")

    def verify(self) -> None:
        """Read everything and compare with the manifest's hashes. Raises UserError naming a file that differs."""
        for name, facts in self.manifest["files"].items():
            self._check_hash(name, facts["sha256"])

    def _tokenizer_files(self) -> set[str]:
        """What follows the side in the names of the tokenizers' files."""
        return {name.partition(".")[2] for name in self.manifest["files"] if name.partition(".")[0] in SIDES}

    def _hash_of(self, side: str, name: str) -> str | None:
        return self.manifest["files"].get(f"{side}.{name}", {}).get("sha256")

    def _check_size(self, name: str, size: int) -> None:
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path}: this file of the store is missing; make the store again")
        if path.stat().st_size != size:
            found = f"{path.stat().st_size} bytes, the manifest says {size}"
            raise UserError(f"{path}: truncated or changed: {found}; make the store again")

    def _check_hash(self, name: str, expected: str) -> None:
        path = self.path / name
        if file_hash(path) != expected:
            raise UserError(f"{path}: changed: its SHA-256 is not the manifest's; make the store again")


class Split:
    """One split of a store: token ids of each side, without EOS, and the raw lines where they were kept."""

    def __init__(self, folder: Path, name: str, facts: dict[str, Any]):
        self.name, self.facts = name, facts
        self._tokens = {
            side: Ragged(folder / f"{name}.{side}.tokens", np.dtype(facts[side]["type"]), facts["pairs"])
            for side in SIDES
        }
        self._texts = {side: Ragged(folder / f"{name}.{side}.text", TEXT, facts["pairs"]) for side in SIDES}

    def __len__(self) -> int:
        return self.facts["pairs"]

    @property
    def source_lengths(self) -> np.ndarray:
        """Source tokens of each example, without EOS, int64 [examples]."""
        return self._tokens["source"].lengths

    @property
    def target_lengths(self) -> np.ndarray:
        """Target tokens of each example, without EOS, int64 [examples]."""
        return self._tokens["target"].lengths

    def source(self, index: int) -> np.ndarray:
        """Source ids of an example, int64 [its length], without EOS."""
        return self._tokens["source"][index].astype(np.int64)

    def target(self, index: int) -> np.ndarray:
        """Target ids of an example, int64 [its length], without EOS."""
        return self._tokens["target"][index].astype(np.int64)

    @property
    def has_text(self) -> bool:
        """Whether the raw lines were kept."""
        return self.facts["text"]

    def source_text(self) -> list[str]:
        """All raw source lines, as they were in the corpus. Raises UserError if they were not kept."""
        return self._text("source")

    def target_text(self) -> list[str]:
        """All raw target lines, as they were in the corpus. Raises UserError if they were not kept."""
        return self._text("target")

    def _text(self, side: str) -> list[str]:
        if not self.has_text:
            raise UserError(f"split '{self.name}' has no raw text; make the store with keep_text=true")
        return self._texts[side].values.tobytes().decode().split("\n")[:-1]


class Ragged:
    """Rows of different lengths in one file, their offsets in another; mapped on first use.

    Args:
        path: The file of values; `path.offsets` lies beside it.
        dtype: Of the values.
        rows: Number of rows.
    """

    def __init__(self, path: Path, dtype: np.dtype, rows: int):
        self.path, self.dtype, self.rows = path, dtype, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < self.rows:
            raise IndexError(f"row {index} of {self.rows}")
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Values of each row, int64 [rows]."""
        return np.diff(self.offsets)

    @cached_property
    def values(self) -> np.ndarray:
        """All rows, one after the other."""
        return _mapped(self.path, self.dtype)

    @cached_property
    def offsets(self) -> np.ndarray:
        """Where rows begin and end in `values`, int64 [rows + 1]."""
        return _mapped(offsets_path(self.path), OFFSET)


class StoreWriter:
    """Writes a store beside its place. A context: left by `commit` the store is there, left otherwise nothing is.

    Args:
        path: Where the store will be.
        overwrite: Replace the store that is there.

    Raises:
        UserError: the place is taken.
    """

    def __init__(self, path: str | Path, overwrite: bool):
        self.path = Path(os.path.realpath(path))
        check_free(path, overwrite)
        self.folder = self.path.with_name(f"{self.path.name}.partial-{os.getpid()}-{time.time_ns():x}")
        self._replaced = self.folder.with_name(f"{self.folder.name}.replaced")
        self._open: list[RaggedWriter] = []
        self._files: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "StoreWriter":
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.folder.mkdir()
        return self

    def __exit__(self, *_) -> None:
        for column in self._open:
            column.abandon()
        shutil.rmtree(self.folder, ignore_errors=True)  # after `commit` it is not there any more
        if self._replaced.exists():
            if not self.path.exists():  # cut off between the two renames of `commit`
                os.rename(self._replaced, self.path)
            shutil.rmtree(self._replaced, ignore_errors=True)

    def add_tokenizer(self, tokenizer: Tokenizer, side: str) -> None:
        """Write the tokenizer of a side."""
        tokenizer.save(self.folder, side)
        for path in self.folder.glob(f"{side}.*"):
            flush(path)
            self._files[path.name] = {"size": path.stat().st_size, "sha256": file_hash(path)}

    def column(self, name: str, dtype: np.dtype) -> "RaggedWriter":
        """A new ragged file of the store, to be closed before `commit`."""
        self._open.append(RaggedWriter(self.folder / name, dtype))
        return self._open[-1]

    def commit(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Complete the store and put it in its place.

        Args:
            facts: The manifest but for format, files and digest.

        Returns:
            The manifest.
        """
        for column in self._open:
            self._files |= column.close()
        self._open = []
        manifest = {"format": FORMAT, **facts, "files": dict(sorted(self._files.items()))}
        manifest["digest"] = digest(manifest)
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (self.folder / MANIFEST).write_text(text, encoding="utf-8")
        flush(self.folder / MANIFEST)
        flush(self.folder)
        if (self.path / MANIFEST).is_file():  # `check_free` has seen to it that this one may go
            os.rename(self.path, self._replaced)
        os.rename(self.folder, self.path)
        flush(self.path.parent)
        return manifest


class RaggedWriter:
    """Appends rows to a file of values and a file of offsets, and hashes both on the way."""

    def __init__(self, path: Path, dtype: np.dtype):
        self.dtype = dtype.newbyteorder("<")
        self._end = 0
        self._values = _HashedFile(path)
        self._offsets = _HashedFile(offsets_path(path))
        self._offsets.write(np.zeros(1, OFFSET))

    def append(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """Append rows: all their values [sum of lengths], and how many each has [rows]."""
        self._values.write(np.ascontiguousarray(values, self.dtype))
        ends = np.cumsum(lengths, dtype=OFFSET) + self._end
        self._offsets.write(ends)
        if len(ends):
            self._end = int(ends[-1])

    def close(self) -> dict[str, dict[str, Any]]:
        """Flush to the disk; returns size and SHA-256 of each file by name."""
        return self._values.close() | self._offsets.close()

    def abandon(self) -> None:
        self._values.abandon()
        self._offsets.abandon()


class _HashedFile:
    """A new file whose write errors name it."""

    def __init__(self, path: Path):
        self.path, self._size, self._sha = path, 0, hashlib.sha256()
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 (chunks are large; closed below)

    def write(self, array: np.ndarray) -> None:
        view = memoryview(array).cast("B") if array.size else memoryview(b"")
        self._sha.update(view)
        self._size += len(view)
        try:
            while view:  # an unbuffered file may take only a part
                view = view[self._file.write(view) :]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def close(self) -> dict[str, dict[str, Any]]:
        os.fsync(self._file.fileno())
        self._file.close()
        return {self.path.name: {"size": self._size, "sha256": self._sha.hexdigest()}}

    def abandon(self) -> None:
        self._file.close()


def check_free(path: str | Path, overwrite: bool) -> None:
    """See whether a store may be written to a place.

    Raises:
        UserError: something else is there, or a store is and `overwrite` is false.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not _is_store(path):
        raise UserError(f"store={path}: this holds something that is not a store; choose another place")
    if not overwrite:
        raise UserError(f"store={path}: there is a store already; overwrite=true replaces it")


def token_type(symbols: int) -> np.dtype:
    """The smallest unsigned type that holds the ids of a vocabulary of so many symbols."""
    return np.min_scalar_type(symbols - 1).newbyteorder("<")


def offsets_path(path: Path) -> Path:
    """The file of offsets of a file of values."""
    return path.with_name(f"{path.name}.offsets")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of what identifies the data in a manifest: format, task, languages and the hashes of the files."""
    facts = {key: manifest.get(key) for key in ("format", "task", "source_language", "target_language", "files")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        reason = "not a store (no manifest.json)" if folder.is_dir() else "no such store"
        raise UserError(f"{folder}: {reason}; s2s-preprocess makes one")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: damaged: {error}; make the store again") from error
    if not _describes_store(manifest):
        raise UserError(f"{path}: not the manifest of a store")
    if manifest["format"] != FORMAT:
        raise UserError(f"{path}: store format {manifest['format']}, this version reads {FORMAT}; make the store again")
    return manifest


def _describes_store(manifest: Any) -> bool:
    """Whether some JSON is the manifest of a store, of whatever format."""
    return isinstance(manifest, dict) and {"format", "splits", "vocabularies", "files", "digest"} <= set(manifest)


def _is_store(path: Path) -> bool:
    try:
        return _describes_store(json.loads((path / MANIFEST).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """A file as a read-only array that is read when touched."""
    if path.stat().st_size == 0:  # cannot be mapped
        return np.empty(0, dtype)
    return np.memmap(path, dtype, "r").view(np.ndarray)


def flush(path: Path) -> None:
    """Make a file's content, or a folder's names, survive a power cut, where the system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
