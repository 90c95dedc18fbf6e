"""The store: a folder of binarised parallel text (or speech: `s2s.data.speech`) that opens in milliseconds at any size.

    manifest.json               what is inside, how it was made, size and SHA-256 of every file
    source.* target.*           the tokenizers, as `Tokenizer.save` writes them
    SPLIT-SHARD.SIDE.tokens     ids of a shard's examples, one after the other, in the smallest unsigned type that fits
    SPLIT-SHARD.SIDE.text       their raw lines, line feeds included, where they are kept (validation and test splits)
    *.offsets                   beside each of these, where each example begins (see `s2s.data.ragged`)
    report.txt report.png       what the text is like: for people, no part of the content

SHARD is 00000, 00001 ...; the examples of a split are numbered through its shards. A store is written beside its place
and renamed when it is complete.
"""

import errno
import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2s.data.ragged import OFFSET, Ragged, RaggedWriter, offsets_path
from s2s.errors import UserError
from s2s.text.tokenizer import Tokenizer, load_tokenizer

FORMAT = 2
MANIFEST = "manifest.json"
SIDES = ("source", "target")
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
        for name in self.splits:
            self._check_shards(name)

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
        if name not in self.splits:
            raise UserError(f"{self.path}: no split '{name}'; there is {', '.join(self.splits)}")
        return _split(name, [self])

    def tokenizers(self) -> tuple[Tokenizer | None, Tokenizer]:
        """The tokenizers of source and target; the same object twice if they are the same. Speech has none."""
        hashes = self.tokenizer_hashes()
        source = load_tokenizer(self.path, "source") if hashes["source"] else None
        return source, source if hashes["source"] == hashes["target"] else load_tokenizer(self.path, "target")

    def tokenizer_hashes(self) -> dict[str, dict[str, str]]:
        """SHA-256 of the files of each side's tokenizer, by what follows the side in their names."""
        return {
            side: {
                name.removeprefix(f"{side}."): facts["sha256"]
                for name, facts in self.manifest["files"].items()
                if name.startswith(f"{side}.")
            }
            for side in SIDES
        }

    def verify(self) -> None:
        """Read everything and compare with the manifest's hashes. Raises UserError naming a file that differs."""
        for name, facts in self.manifest["files"].items():
            self._check_hash(name, facts["sha256"])

    def _check_shards(self, split: str) -> None:
        """See whether the shards are those of the manifest's counts."""
        facts, sizes = self.manifest["splits"][split], self.manifest["files"]
        sides = SIDES
        columns = []
        if "features" in self.manifest:
            sides, columns = ("target",), [f"source.{self.manifest['features']['keep']}", "source.utterance"]
        columns += [f"{side}.{column}" for side in sides for column in ("tokens", "text")[: 1 + facts["text"]]]
        fits = facts["pairs"] == sum(facts["shards"]) == sum(corpus["kept"] for corpus in facts["corpora"])
        for shard, pairs in enumerate(facts["shards"]):
            for column in columns:
                values = Path(shard_file(split, shard, column))
                offsets = sizes.get(offsets_path(values).name, {}).get("size")
                fits &= values.name in sizes and offsets == (pairs + 1) * OFFSET.itemsize
        if not fits:
            raise UserError(f"{self.path / MANIFEST}: split '{split}': its counts do not fit its files; "
                            "make the store again")  # fmt: skip

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


class Stores:
    """Several stores as one: a split is the splits of that name of those stores that have it, one after the other.

    Args:
        paths: Their folders, at least one.

    Raises:
        UserError: what `Store` raises, or stores whose tokenizers differ.
    """

    def __init__(self, paths: list[str | Path]):
        self.stores = [Store(path) for path in paths]
        first, *others = self.stores
        for store in others:
            for key in ("task", "features", "cmvn"):
                if store.manifest.get(key) != first.manifest.get(key):
                    raise UserError(
                        f"{store.path}: its {key} is not that of {first.path}; stores that are read as one need the "
                        f"same: make it with tokenizer_from={first.path}"
                    )
            if store.tokenizer_hashes() != first.tokenizer_hashes():
                raise UserError(
                    f"{store.path}: its tokenizers are not those of {first.path}; stores that are read as one need the "
                    f"same: make it with tokenizer_from={first.path}"
                )

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the data: of one store its own, of several that of their digests in their order."""
        digests = [store.digest for store in self.stores]
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def source_language(self) -> str:
        """The source language; of several all of them, with commas."""
        return ",".join(dict.fromkeys(store.source_language for store in self.stores))

    @property
    def target_language(self) -> str:
        """The target language; of several all of them, with commas."""
        return ",".join(dict.fromkeys(store.target_language for store in self.stores))

    @property
    def splits(self) -> list[str]:
        """Names of all splits, in the order in which the stores have them."""
        return list(dict.fromkeys(name for store in self.stores for name in store.splits))

    def split(self, name: str) -> "Split":
        """A split by name. Raises UserError naming those that there are."""
        having = [store for store in self.stores if name in store.splits]
        if not having:
            places = ", ".join(str(store.path) for store in self.stores)
            raise UserError(f"{places}: no split '{name}'; there is {', '.join(self.splits)}")
        return _split(name, having)

    def tokenizers(self) -> tuple[Tokenizer | None, Tokenizer]:
        """The tokenizers of source and target; the same object twice if they are the same. Speech has none."""
        return self.stores[0].tokenizers()

    def verify(self) -> None:
        """Read everything and compare with the manifests' hashes. Raises UserError naming a file that differs."""
        for store in self.stores:
            store.verify()


def _split(name: str, stores: list[Store]) -> "Split":
    """A split of the class that fits what the stores hold."""
    if "features" not in stores[0].manifest:
        return Split(name, stores)
    from s2s.data.speech import SpeechSplit  # who reads text does not need it

    return SpeechSplit(name, stores)


class CorpusRange(NamedTuple):
    """Where the examples of a corpus lie in a split: first ... last - 1. None is left of one that is filtered away."""

    name: str
    first: int
    last: int
    source_language: str
    target_language: str


class Split:
    """One split of one or more stores: token ids of each side, without EOS, and the raw lines where they were kept.

    Args:
        name: Of the split.
        stores: Stores that have it.
    """

    def __init__(self, name: str, stores: list[Store]):
        self.name = name
        self._stores = [(store, store.manifest["splits"][name]) for store in stores]
        kind = np.dtype(self._stores[0][1]["source"]["type"]), np.dtype(self._stores[0][1]["target"]["type"])
        self._tokens = {
            side: Ragged(self._shards(f"{side}.tokens"), dtype) for side, dtype in zip(SIDES, kind, strict=True)
        }
        self._texts = {side: Ragged(self._shards(f"{side}.text"), TEXT) for side in SIDES}

    def __len__(self) -> int:
        return len(self._tokens["target"])

    def lengths(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Source and target tokens of each of the examples first ... last - 1, without EOS, int32 [last - first] both.

        They are read now, and nothing of them is kept.

        Raises:
            IndexError: examples that are not there.
            UserError: a file that cannot be read or is damaged, by name; this holds for all that is read here.
        """
        return self._tokens["source"].lengths(first, last), self._tokens["target"].lengths(first, last)

    @property
    def source_lengths(self) -> np.ndarray:
        """Source tokens of each example, without EOS, int64 [examples]."""
        return self._tokens["source"].lengths(0, len(self)).astype(np.int64)

    @property
    def target_lengths(self) -> np.ndarray:
        """Target tokens of each example, without EOS, int64 [examples]."""
        return self._tokens["target"].lengths(0, len(self)).astype(np.int64)

    @property
    def longest(self) -> tuple[int, int]:
        """Tokens of the longest source and of the longest target, without EOS, from the manifest."""
        return tuple(max(facts[side]["lengths"]["max"] for _, facts in self._stores) for side in SIDES)

    @property
    def corpora(self) -> list[CorpusRange]:
        """Where the examples of each corpus lie; together they are the whole split, in its order."""
        ranges, first = [], 0
        for store, facts in self._stores:
            for corpus in facts["corpora"]:
                last = first + corpus["kept"]
                ranges.append(CorpusRange(corpus["name"], first, last, store.source_language, store.target_language))
                first = last
        return ranges

    def gather(self, side: str, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of examples of any numbers in any order, without EOS.

        Args:
            side: "source" or "target".
            examples: Their numbers, integers [B].

        Returns:
            ids: Of all these examples, one after the other, int64 [sum of lengths].
            lengths: Of each example, int64 [B].

        Raises:
            IndexError: an example that is not there.
        """
        ids, lengths = self._tokens[side].gather(examples)
        return ids.astype(np.int64), lengths

    def texts(self, side: str, examples: np.ndarray) -> list[str]:
        """Raw lines of examples of any numbers in any order, as they were in the corpus.

        Raises:
            IndexError: an example that is not there.
            UserError: the split has no raw text.
        """
        self._need_text()
        return self._lines(side, examples)

    def _lines(self, column: str, examples: np.ndarray) -> list[str]:
        text, _ = self._texts[column].gather(examples)
        return _lines(text.tobytes(), len(examples), f"{self._stores[0][0].path}: the {column} text of '{self.name}'")

    def source(self, index: int) -> np.ndarray:
        """Source ids of an example, int64 [its length], without EOS."""
        return self.gather("source", [index])[0]

    def target(self, index: int) -> np.ndarray:
        """Target ids of an example, int64 [its length], without EOS."""
        return self.gather("target", [index])[0]

    @property
    def has_text(self) -> bool:
        """Whether the raw lines were kept."""
        return all(facts["text"] for _, facts in self._stores)

    def source_text(self) -> list[str]:
        """All raw source lines, as they were in the corpus. Raises UserError if they were not kept."""
        return self._all_text("source")

    def target_text(self) -> list[str]:
        """All raw target lines, as they were in the corpus. Raises UserError if they were not kept."""
        return self._all_text("target")

    def _all_text(self, side: str) -> list[str]:
        self._need_text()
        return [line for path, count in self._shards(f"{side}.text") for line in _lines(path.read_bytes(), count, path)]

    def _need_text(self) -> None:
        for store, facts in self._stores:
            if not facts["text"]:
                raise UserError(
                    f"{store.path}: split '{self.name}' has no raw text; make the store with keep_text=true"
                )

    def _shards(self, column: str) -> list[tuple[Path, int]]:
        """The file of values and the number of rows of each shard of a column."""
        return [
            (store.path / shard_file(self.name, shard, column), pairs)
            for store, facts in self._stores
            for shard, pairs in enumerate(facts["shards"])
        ]


class StoreWriter:
    """Writes a store beside its place. A context: left by `commit` the store is there, left otherwise nothing is.

    Args:
        path: Where the store will be.
        overwrite: Replace the store that is there.
        shard_pairs: Examples of a shard.

    Raises:
        UserError: the place is taken.
    """

    def __init__(self, path: str | Path, overwrite: bool, shard_pairs: int = 10_000_000):
        self.shard_pairs = shard_pairs
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

    def column(self, split: str, name: str, dtype: np.dtype) -> RaggedWriter:
        """A new column of a split: `SIDE.tokens` or `SIDE.text`."""
        self._open.append(
            RaggedWriter(lambda shard: self.folder / shard_file(split, shard, name), dtype, self.shard_pairs)
        )
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


def _lines(text: bytes, count: int, where: str | Path) -> list[str]:
    try:
        lines = text.decode().split("\n")[:-1]
    except UnicodeDecodeError:
        lines = []
    if len(lines) != count:
        raise UserError(f"{where}: changed since the store was made; make the store again")
    return lines


def token_type(symbols: int) -> np.dtype:
    """The smallest unsigned type that holds the ids of a vocabulary of so many symbols."""
    return np.min_scalar_type(symbols - 1).newbyteorder("<")


def shard_file(split: str, shard: int, column: str) -> str:
    """The name of a shard's file of values; `column` is `SIDE.tokens` or `SIDE.text`."""
    return f"{split}-{shard:05d}.{column}"


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of what identifies the data in a manifest: format, task, languages, the hashes of the files, and of
    speech how its features are made.
    """
    facts = {key: manifest.get(key) for key in ("format", "task", "source_language", "target_language", "files")}
    facts |= {key: manifest[key] for key in ("features", "cmvn") if key in manifest}
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
