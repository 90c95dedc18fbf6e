"""The store: a folder of binarised examples that opens in milliseconds at any size.

    manifest.json               the contents, how they were made, size and SHA-256 of every file
    manifest.sha256             SHA-256 of the manifest
    blocks.sha256               SHA-256 of every 256 KiB of every file, 32 bytes each, in the order of the manifest
    source.* target.*           the tokenizers, as `Tokenizer.save` writes them
    SPLIT-SHARD.COLUMN          a column of a shard (see `s2s.data.columns`): the concatenated values of its examples,
                                such as `source.tokens`, `target.text` (raw lines, in validation and test splits)
    *.offsets                   for each of these files, where each example begins (see `s2s.data.ragged`)
    report.txt report.png       a report about the data for readers; not part of the data

SHARD is 00000, 00001 ...; the examples of a split are numbered over all its shards. The manifest declares the columns
of each split, and has further facts from the task (`facts`), which the store compares but does not interpret. A store
is written under a temporary name, and renamed when it is complete. All data that are read are verified, block by block.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from s2s import manifests
from s2s.config.documents import read_json
from s2s.config.shapes import mapping, number, text, whole
from s2s.data import columns
from s2s.data.blocks import DIGEST, Blocks, damaged
from s2s.data.columns import Column
from s2s.data.ragged import OFFSET, offsets_path
from s2s.data.split import AGAIN, Split, shard_file
from s2s.errors import UserError
from s2s.files import file_hash
from s2s.manifests import MANIFEST
from s2s.text.tokenizer import Tokenizer, load_tokenizer

# Formats that can be read; the last one is written. Formats before 4 do not declare columns; format 2 has neither
# manifest.sha256 nor blocks.
FORMATS = (2, 3, 4)
BLOCKS = "blocks.sha256"
HASHERS = 4  # threads that verify files
OLD_FACTS, OLD_MAY_DIFFER = ("features", "cmvn"), ["channel"]  # for formats 2 and 3


# The shape of a manifest. `other_files` are not part of the data: the digest does not depend on them.
FILES = mapping({"size": whole(0), "sha256": manifests.SHA256}, manifests.NAME)
VOCABULARY = {"size?": whole(0), "digest?": manifests.SHA256}
STREAM = {"type?": str, "lengths": {"max": whole(0), ...: object}, "tokens?": whole(0), ...: object}
CORPUS = {"name": str, "kept": whole(0), "source_language?": str, "target_language?": str, "tags?": mapping(str),
          ...: object}  # fmt: skip
SPLIT = {
    "pairs": whole(0), "shards": [whole(0)], "corpora": [CORPUS], "text?": bool,
    "columns?": mapping(columns.COLUMN, columns.NAME), "source?": STREAM, "target?": STREAM, "seconds?": number(0),
    "dropped?": mapping(whole(0)), "broken?": mapping(whole(0)), ...: object,
}  # fmt: skip
OLD_FEATURES = {"keep": str, "bins": whole(1), ...: object}
SHAPE = {
    "format": int, "task": str, "source_language": str, "target_language": str,
    "tokenizers?": mapping({"type?": str, ...: object}), "vocabularies": mapping(VOCABULARY),
    "splits": mapping(SPLIT, text("[a-z]+[0-9]*", "the name of a split")), "facts?": mapping(object),
    "may_differ?": [str], "features?": OLD_FEATURES, "cmvn?": object, "files": FILES, "other_files?": FILES,
    "block_size?": whole(1), "digest": manifests.SHA256, ...: object,
}  # fmt: skip


class Store:
    """A store opened for reading. At first only the manifest and the files of the tokenizers are read. Everything else
    is read on demand, and verified.

    Args:
        path: Folder of the store.

    Raises:
        UserError: it is not a store, it has a newer format, or the size of a file (for a tokenizer: the hash) differs
            from the manifest; the message names the file.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.manifest: dict[str, Any] = _read_manifest(self.path)
        self._files = self.manifest["files"]
        self._blocks: dict[str, Blocks] = {}
        self._digests: dict[str, bytes] | None = None
        for name, facts in self._files.items():
            self._check_size(name, facts["size"])
            if is_of_tokenizer(name):
                self._check_hash(name, facts["sha256"])
        if digest(self.manifest) != self.digest:
            raise UserError(f"{self.path / MANIFEST}: the digest does not fit the content; {AGAIN}")
        self._columns = {name: self._columns_of(name) for name in self.splits}
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
        """Names of the splits, such as train, valid, test, test1."""
        return list(self.manifest["splits"])

    def split(self, name: str) -> Split:
        """A split by name. Raises UserError if there is none; the message names the splits."""
        if name not in self.splits:
            raise UserError(f"{self.path}: no split '{name}'; it has {', '.join(self.splits)}")
        return Split(name, [self])

    @property
    def task(self) -> str:
        """The task for which the store was made."""
        return self.manifest["task"]

    @property
    def facts(self) -> dict[str, Any]:
        """The facts that its task has declared about all data."""
        return task_facts(self.manifest)

    @property
    def compared(self) -> dict[str, Any]:
        """What must be the same in stores that are read as one: the task and its facts, without those that may
        differ."""
        may_differ = self.manifest.get("may_differ", OLD_MAY_DIFFER)
        return {"task": self.task, **_without(self.facts, may_differ)}

    def columns(self, split: str) -> dict[str, Column]:
        """The columns of a split by name."""
        return {name: column for name, (column, _) in self._columns[split].items()}

    def longest(self, split: str, column: str) -> int:
        """Number of values of the longest example of a split in a column."""
        return self._columns[split][column][1]["longest"]

    def tokenizers(self) -> dict[str, Tokenizer]:
        """Stream (`source`, `target`) -> tokenizer; streams with equal tokenizers share one object."""
        loaded: dict[str, Tokenizer] = {}
        by_hash: dict[str, Tokenizer] = {}
        for name, hashes in self.tokenizer_hashes().items():
            key = json.dumps(hashes, sort_keys=True)
            loaded[name] = by_hash.setdefault(key, by_hash.get(key) or load_tokenizer(self.path, name))
        return loaded

    def tokenizer_hashes(self) -> dict[str, dict[str, str]]:
        """Tokenizer -> ending of each of its files -> SHA-256 of the file."""
        hashes: dict[str, dict[str, str]] = {}
        for name, facts in self._files.items():
            if is_of_tokenizer(name):
                stream, _, ending = name.partition(".")
                hashes.setdefault(stream, {})[ending] = facts["sha256"]
        return hashes

    def verify(self, splits: Iterable[str] | None = None) -> None:
        """Read all files and compare them with the hashes of the manifest.

        Args:
            splits: Verify only the files of these splits; None: everything.

        Raises:
            UserError: a file differs; the message names it.
        """
        names = list(self._files)
        if splits is None:
            for name, facts in self.manifest.get("other_files", {}).items():
                if name != BLOCKS and not (self.path / name).exists():
                    continue  # a report may be missing
                self._check_size(name, facts["size"])
                self._check_hash(name, facts["sha256"])
        else:
            names = [name for name in names if name.startswith(tuple(f"{split}-" for split in splits))]
        with ThreadPoolExecutor(HASHERS) as threads:
            list(threads.map(lambda name: self.blocks(self.path / name).check_all(), names))

    def blocks(self, path: Path) -> Blocks:
        """The Blocks of a file of the store, which verify it, and remember what was verified."""
        name = path.name
        if name not in self._blocks:
            size = self._files[name]["size"]
            if "block_size" in self.manifest:
                digests = self._block_digests()[name]
                blocks = Blocks(path, size, digests, self.manifest["block_size"])
            else:  # format 2: the file is one block
                blocks = Blocks(path, size, bytes.fromhex(self._files[name]["sha256"]) if size else b"", size)
            self._blocks.setdefault(name, blocks)
        return self._blocks[name]

    def _block_digests(self) -> dict[str, bytes]:
        """Name of each file -> the concatenated SHA-256 digests of its blocks."""
        if self._digests is None:
            facts = self.manifest.get("other_files", {}).get(BLOCKS)
            if facts is None:
                raise UserError(f"{self.path / MANIFEST}: other_files['{BLOCKS}'] is missing; {AGAIN}")
            self._check_size(BLOCKS, facts["size"])
            self._check_hash(BLOCKS, facts["sha256"])
            content, digests, place = (self.path / BLOCKS).read_bytes(), {}, 0
            for name, facts in self._files.items():
                count = -(-facts["size"] // self.manifest["block_size"])
                digests[name] = content[place : place + DIGEST * count]
                place += DIGEST * count
            if place != len(content):
                raise damaged(self.path / BLOCKS)
            self._digests = digests
        return self._digests

    def _columns_of(self, split: str) -> dict[str, tuple[Column, dict[str, Any]]]:
        """The columns of a split, each with its entry in the manifest."""
        try:
            declared = declared_columns(self.manifest, split)
            return {name: (columns.of_facts(name, facts), facts) for name, facts in declared.items()}
        except (UserError, KeyError, ValueError) as error:
            wrong = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"{self.path / MANIFEST}: split '{split}': its columns: {wrong}; {AGAIN}") from error

    def _check_shards(self, split: str) -> None:
        """Check that the files of the shards fit the counts in the manifest. Raises UserError."""
        facts, sizes = self.manifest["splits"][split], self.manifest["files"]
        fits = facts["pairs"] == sum(facts["shards"]) == sum(corpus["kept"] for corpus in facts["corpora"])
        for shard, pairs in enumerate(facts["shards"]):
            for column in self._columns[split]:
                values = Path(shard_file(split, shard, column))
                offsets = sizes.get(offsets_path(values).name, {}).get("size")
                fits &= values.name in sizes and offsets == (pairs + 1) * OFFSET.itemsize
        if not fits:
            raise UserError(f"{self.path / MANIFEST}: split '{split}': its counts do not fit its files; {AGAIN}")

    def _check_size(self, name: str, size: int) -> None:
        path = self.path / name
        if not path.is_file():
            raise UserError(f"{path}: this file of the store is missing; {AGAIN}")
        if path.stat().st_size != size:
            sizes = f"{path.stat().st_size} bytes, the manifest says {size}"
            raise UserError(f"{path}: truncated or changed: {sizes}; {AGAIN}")

    def _check_hash(self, name: str, expected: str) -> None:
        path = self.path / name
        if file_hash(path) != expected:
            raise UserError(f"{path}: changed: its SHA-256 is not the manifest's; {AGAIN}")


class Stores:
    """Several stores read as one. A split is the concatenation of the splits of that name in all stores that have it.

    Args:
        paths: Folders of the stores, at least one.
        mixed: Whether they may be made for different tasks.

    Raises:
        UserError: as `Store`; or stores have different tasks, facts or tokenizers.
    """

    def __init__(self, paths: list[str | Path], mixed: bool = False):
        self.stores = [Store(path) for path in paths]
        first, *others = self.stores
        for store in others:
            for key in first.compared | store.compared:  # in this order, so that messages do not differ by chance
                if key == "task" and mixed:
                    continue
                if first.compared.get(key) != store.compared.get(key):
                    raise UserError(
                        f"{store.path}: its {key} differs from that of {first.path}; stores that are read as one must "
                        f"agree: make it with tokenizer_from={first.path}"
                    )
            if store.tokenizer_hashes() != first.tokenizer_hashes():
                raise UserError(
                    f"{store.path}: its tokenizers differ from those of {first.path}; stores that are read as one must "
                    f"agree: make it with tokenizer_from={first.path}"
                )

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the data: the digest of a single store, or the SHA-256 of the digests of all stores
        in order."""
        digests = [store.digest for store in self.stores]
        return digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()

    @property
    def source_language(self) -> str:
        """The source language; if there are several, all of them, separated by commas."""
        return ",".join(dict.fromkeys(store.source_language for store in self.stores))

    @property
    def target_language(self) -> str:
        """The target language; if there are several, all of them, separated by commas."""
        return ",".join(dict.fromkeys(store.target_language for store in self.stores))

    @property
    def splits(self) -> list[str]:
        """Names of all splits, in the order of the stores."""
        return list(dict.fromkeys(name for store in self.stores for name in store.splits))

    def split(self, name: str) -> Split:
        """A split by name. Raises UserError if there is none; the message names the splits."""
        having = [store for store in self.stores if name in store.splits]
        if not having:
            places = ", ".join(str(store.path) for store in self.stores)
            raise UserError(f"{places}: no split '{name}'; they have {', '.join(self.splits)}")
        return Split(name, having)

    @property
    def task(self) -> str:
        """The task for which the stores were made."""
        return self.stores[0].task

    @property
    def facts(self) -> dict[str, Any]:
        """The facts of the first store."""
        return self.stores[0].facts

    @property
    def path(self) -> Path:
        """The folder of the first store."""
        return self.stores[0].path

    def tokenizers(self) -> dict[str, Tokenizer]:
        """As in Store."""
        return self.stores[0].tokenizers()

    def verify(self, splits: Iterable[str] | None = None) -> None:
        """As in Store, for all stores."""
        for store in self.stores:
            store.verify(splits)


def is_of_tokenizer(file: str) -> bool:
    """Whether a file belongs to a tokenizer, by its name: only the names of shards have a hyphen."""
    return "-" not in file.partition(".")[0]


def declared_columns(manifest: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """The entries of the columns of a split in a manifest. Raises KeyError if they are missing."""
    facts = manifest["splits"][split]
    if manifest["format"] < FORMATS[-1]:
        return columns.of_old_split(facts, manifest.get("features"))
    return facts["columns"]


def task_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """The facts that the task has declared about all data."""
    if "facts" in manifest:
        return manifest["facts"]
    return {key: manifest[key] for key in OLD_FACTS if key in manifest}


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of the facts in a manifest that identify the data: task, languages, hashes of the files, and facts of the
    task."""
    facts = {key: manifest.get(key) for key in ("task", "source_language", "target_language", "files")}
    facts |= task_facts(manifest)
    facts["format"] = FORMATS[0]  # a constant, so that the same data have the same digest in all formats
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _without(facts: Any, keys: list[str]) -> Any:
    """Facts of a manifest without some keys, at any depth."""
    if not isinstance(facts, dict):
        return facts
    return {key: _without(value, keys) for key, value in facts.items() if key not in keys}


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        if (folder / manifests.SEAL).is_file():
            raise UserError(f"{path}: missing; {AGAIN}")
        reason = "not a store (no manifest.json)" if folder.is_dir() else "no such store"
        raise UserError(f"{folder}: {reason}; s2s-preprocess makes one")
    if not describes_store(read_json(path, remedy=AGAIN)):
        raise UserError(f"{path}: not the manifest of a store")
    return manifests.read_manifest(folder, SHAPE, FORMATS, AGAIN)


def describes_store(manifest: Any) -> bool:
    """Whether a JSON value is the manifest of a store, of any format."""
    return isinstance(manifest, dict) and {"format", "splits", "vocabularies", "files", "digest"} <= set(manifest)
