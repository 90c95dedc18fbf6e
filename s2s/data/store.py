"""The store: a folder of binarised examples that opens in milliseconds at any size.

    manifest.json               what is inside, how it was made, size and SHA-256 of every file
    manifest.sha256             the manifest's own
    blocks.sha256               SHA-256 of every 256 KiB of every file, 32 bytes each, in the manifest's order
    source.* target.*           the tokenizers, as `Tokenizer.save` writes them
    SPLIT-SHARD.COLUMN          a column of a shard (see `s2s.data.columns`): the values of its examples, one after the
                                other, such as `source.tokens`, `target.text` (raw lines, in validation and test splits)
    *.offsets                   beside each of these, where each example begins (see `s2s.data.ragged`)
    report.txt report.png       what the data are like: for people, no part of the content

SHARD is 00000, 00001 ...; the examples of a split are numbered through its shards. The manifest declares the columns of
each split, and holds what else the task declares (`facts`), which the store compares and does not read. A store is
written beside its place and renamed when it is complete. Whatever is read of it is verified, block by block.
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

# That are read. The last one is written. Those before 4 do not declare their columns; 2 has neither manifest.sha256 nor
# blocks.
FORMATS = (2, 3, 4)
BLOCKS = "blocks.sha256"
HASHERS = 4  # threads that verify files
OLD_FACTS, OLD_MAY_DIFFER = ("features", "cmvn"), ["channel"]  # of formats 2 and 3


# A manifest: what is read of it. `other_files` are no part of the data: the digest does not depend on them.
FILES = mapping({"size": whole(0), "sha256": manifests.SHA256}, manifests.NAME)
VOCABULARY = {"size?": whole(0), "digest?": manifests.SHA256}
STREAM = {"type?": str, "lengths": {"max": whole(0), ...: object}, "tokens?": whole(0), ...: object}
SPLIT = {
    "pairs": whole(0), "shards": [whole(0)], "corpora": [{"name": str, "kept": whole(0), ...: object}], "text?": bool,
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
    """A store opened for reading. Nothing but the manifest and the tokenizers' files is read until asked for, and what
    is read then is verified.

    Args:
        path: Its folder.

    Raises:
        UserError: not a store, of a newer format, or a file whose size (of a tokenizer: hash) is not the manifest's;
            the message names the file.
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
        """Names of the splits: of train, valid, test, test1 ... those that there are."""
        return list(self.manifest["splits"])

    def split(self, name: str) -> Split:
        """A split by name. Raises UserError naming those that there are."""
        if name not in self.splits:
            raise UserError(f"{self.path}: no split '{name}'; there is {', '.join(self.splits)}")
        return Split(name, [self])

    @property
    def task(self) -> str:
        """The task that it was made for."""
        return self.manifest["task"]

    @property
    def facts(self) -> dict[str, Any]:
        """What its task has declared of all of it."""
        return task_facts(self.manifest)

    @property
    def compared(self) -> dict[str, Any]:
        """What must be the same in stores that are read as one: the task and its facts, but for what may differ."""
        may_differ = self.manifest.get("may_differ", OLD_MAY_DIFFER)
        return {"task": self.task, **_without(self.facts, may_differ)}

    def columns(self, split: str) -> dict[str, Column]:
        """The columns of a split by name."""
        return {name: column for name, (column, _) in self._columns[split].items()}

    def longest(self, split: str, column: str) -> int:
        """Values that the longest example of a split has in a column."""
        return self._columns[split][column][1]["longest"]

    def tokenizers(self) -> dict[str, Tokenizer]:
        """The tokenizers by the names of what they are for (`source`, `target`); one object for those that are the
        same."""
        loaded: dict[str, Tokenizer] = {}
        by_hash: dict[str, Tokenizer] = {}
        for name, hashes in self.tokenizer_hashes().items():
            key = json.dumps(hashes, sort_keys=True)
            loaded[name] = by_hash.setdefault(key, by_hash.get(key) or load_tokenizer(self.path, name))
        return loaded

    def tokenizer_hashes(self) -> dict[str, dict[str, str]]:
        """SHA-256 of the files of each tokenizer, by what follows its name in theirs."""
        found: dict[str, dict[str, str]] = {}
        for name, facts in self._files.items():
            if is_of_tokenizer(name):
                of, _, rest = name.partition(".")
                found.setdefault(of, {})[rest] = facts["sha256"]
        return found

    def verify(self, splits: Iterable[str] | None = None) -> None:
        """Read everything, or what there is of some splits, and compare it with the manifest's hashes.

        Raises:
            UserError: naming a file that differs.
        """
        wanted = list(self._files)
        if splits is None:
            for name, facts in self.manifest.get("other_files", {}).items():
                if name != BLOCKS and not (self.path / name).exists():
                    continue  # reports are nobody's input
                self._check_size(name, facts["size"])
                self._check_hash(name, facts["sha256"])
        else:
            wanted = [name for name in wanted if name.startswith(tuple(f"{split}-" for split in splits))]
        with ThreadPoolExecutor(HASHERS) as threads:
            list(threads.map(lambda name: self.blocks(self.path / name).check_all(), wanted))

    def blocks(self, path: Path) -> Blocks:
        """What a file of the store must hold. It remembers what has been verified."""
        name = path.name
        if name not in self._blocks:
            size = self._files[name]["size"]
            if "block_size" in self.manifest:
                digests = self._block_digests()[name]
                found = Blocks(path, size, digests, self.manifest["block_size"])
            else:  # of format 2: one block
                found = Blocks(path, size, bytes.fromhex(self._files[name]["sha256"]) if size else b"", size)
            self._blocks.setdefault(name, found)
        return self._blocks[name]

    def _block_digests(self) -> dict[str, bytes]:
        """Of each file the SHA-256 of its blocks, one after the other."""
        if self._digests is None:
            facts = self.manifest.get("other_files", {}).get(BLOCKS)
            if facts is None:
                raise UserError(f"{self.path / MANIFEST}: other_files['{BLOCKS}'] is missing; {AGAIN}")
            self._check_size(BLOCKS, facts["size"])
            self._check_hash(BLOCKS, facts["sha256"])
            content, found, place = (self.path / BLOCKS).read_bytes(), {}, 0
            for name, facts in self._files.items():
                count = -(-facts["size"] // self.manifest["block_size"])
                found[name] = content[place : place + DIGEST * count]
                place += DIGEST * count
            if place != len(content):
                raise damaged(self.path / BLOCKS)
            self._digests = found
        return self._digests

    def _columns_of(self, split: str) -> dict[str, tuple[Column, dict[str, Any]]]:
        """The columns of a split, each with what the manifest says of it."""
        try:
            declared = declared_columns(self.manifest, split)
            return {name: (columns.of_facts(name, one), one) for name, one in declared.items()}
        except (UserError, KeyError, ValueError) as error:
            wrong = f"{error.args[0]} is missing" if isinstance(error, KeyError) else error
            raise UserError(f"{self.path / MANIFEST}: split '{split}': its columns: {wrong}; {AGAIN}") from error

    def _check_shards(self, split: str) -> None:
        """See whether the shards are those of the manifest's counts."""
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
            found = f"{path.stat().st_size} bytes, the manifest says {size}"
            raise UserError(f"{path}: truncated or changed: {found}; {AGAIN}")

    def _check_hash(self, name: str, expected: str) -> None:
        path = self.path / name
        if file_hash(path) != expected:
            raise UserError(f"{path}: changed: its SHA-256 is not the manifest's; {AGAIN}")


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
            for key in first.compared | store.compared:
                if first.compared.get(key) != store.compared.get(key):
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

    def split(self, name: str) -> Split:
        """A split by name. Raises UserError naming those that there are."""
        having = [store for store in self.stores if name in store.splits]
        if not having:
            places = ", ".join(str(store.path) for store in self.stores)
            raise UserError(f"{places}: no split '{name}'; there is {', '.join(self.splits)}")
        return Split(name, having)

    @property
    def task(self) -> str:
        """The task that they were made for."""
        return self.stores[0].task

    @property
    def facts(self) -> dict[str, Any]:
        """What their task has declared of the first one."""
        return self.stores[0].facts

    @property
    def path(self) -> Path:
        """Of the first one."""
        return self.stores[0].path

    def tokenizers(self) -> dict[str, Tokenizer]:
        """As `Store.tokenizers`."""
        return self.stores[0].tokenizers()

    def verify(self, splits: Iterable[str] | None = None) -> None:
        """As `Store.verify`, of all stores."""
        for store in self.stores:
            store.verify(splits)


def is_of_tokenizer(file: str) -> bool:
    """Whether a file of the data belongs to a tokenizer, by its name: those of shards have a number."""
    return "-" not in file.partition(".")[0]


def declared_columns(manifest: dict[str, Any], split: str) -> dict[str, dict[str, Any]]:
    """What a manifest says of each column of a split. Raises KeyError for one that does not say it."""
    facts = manifest["splits"][split]
    if manifest["format"] < FORMATS[-1]:
        return columns.of_old_split(facts, manifest.get("features"))
    return facts["columns"]


def task_facts(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the task declares of all the data."""
    if "facts" in manifest:
        return manifest["facts"]
    return {key: manifest[key] for key in OLD_FACTS if key in manifest}


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of what identifies the data in a manifest: task, languages, the hashes of the files, and what the task
    declares of it."""
    facts = {key: manifest.get(key) for key in ("task", "source_language", "target_language", "files")}
    facts |= task_facts(manifest)
    facts["format"] = FORMATS[0]  # of the digest: the same data has the same one whatever the manifest's format
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _without(facts: Any, keys: list[str]) -> Any:
    """Facts of a manifest but for some keys, at any depth."""
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
    """Whether some JSON is the manifest of a store, of whatever format."""
    return isinstance(manifest, dict) and {"format", "splits", "vocabularies", "files", "digest"} <= set(manifest)
