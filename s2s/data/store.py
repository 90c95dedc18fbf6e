"""The store: a folder of binarised parallel text (or speech: `s2s.data.speech`) that opens in milliseconds at any size.

    manifest.json               what is inside, how it was made, size and SHA-256 of every file
    manifest.sha256             the manifest's own
    blocks.sha256               SHA-256 of every 256 KiB of every file, 32 bytes each, in the manifest's order
    source.* target.*           the tokenizers, as `Tokenizer.save` writes them
    SPLIT-SHARD.SIDE.tokens     ids of a shard's examples, one after the other, in the smallest unsigned type that fits
    SPLIT-SHARD.SIDE.text       their raw lines, line feeds included, where they are kept (validation and test splits)
    *.offsets                   beside each of these, where each example begins (see `s2s.data.ragged`)
    report.txt report.png       what the text is like: for people, no part of the content

SHARD is 00000, 00001 ...; the examples of a split are numbered through its shards. A store is written beside its place
and renamed when it is complete. Whatever is read of it is verified, block by block.
"""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from s2s import manifests
from s2s.config.documents import read_json
from s2s.config.shapes import mapping, number, one_of, text, whole
from s2s.data.blocks import DIGEST, Blocks, damaged
from s2s.data.ragged import OFFSET, Ragged, offsets_path
from s2s.errors import UserError
from s2s.files import file_hash
from s2s.manifests import MANIFEST
from s2s.text.tokenizer import Tokenizer, load_tokenizer

FORMATS = (2, 3)  # that are read; the last one is written, the ones before have neither manifest.sha256 nor blocks
SIDES = ("source", "target")
TEXT = np.dtype("u1")
BLOCKS = "blocks.sha256"
AGAIN = "make the store again"
HASHERS = 4  # threads that verify files


# A manifest: what is read of it. `other_files` are no part of the data: the digest does not depend on them.
FILES = mapping({"size": whole(0), "sha256": manifests.SHA256}, manifests.NAME)
VOCABULARY = {"size?": whole(0), "digest?": manifests.SHA256}
SIDE = {
    "type": one_of("|u1", "<u2", "<u4", "<f2", "<i2"), "lengths": {"max": whole(0), ...: object}, "tokens?": whole(0),
    ...: object,
}  # fmt: skip
SPLIT = {
    "pairs": whole(0), "shards": [whole(0)], "corpora": [{"name": str, "kept": whole(0), ...: object}], "text": bool,
    "source": SIDE, "target": SIDE, "seconds?": number(0), "dropped?": mapping(whole(0)), "broken?": mapping(whole(0)),
    ...: object,
}  # fmt: skip
CMVN_SHAPE = ({"mean": [float], "deviation": [float]}, None)
SHAPE = {
    "format": int, "task": str, "source_language": str, "target_language": str,
    "tokenizers?": mapping({"type?": str, ...: object}), "vocabularies": mapping(VOCABULARY),
    "splits": mapping(SPLIT, text("[a-z]+[0-9]*", "the name of a split")), "features?": mapping(object),
    "cmvn?": CMVN_SHAPE, "files": FILES, "other_files?": FILES, "block_size?": whole(1), "digest": manifests.SHA256,
    ...: object,
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
            if name.startswith(tuple(f"{side}." for side in SIDES)):
                self._check_hash(name, facts["sha256"])
        if digest(self.manifest) != self.digest:
            raise UserError(f"{self.path / MANIFEST}: the digest does not fit the content; {AGAIN}")
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
            for key in ("task", "features", "cmvn"):
                mine, its = (_without_channel(one.manifest.get(key)) for one in (store, first))
                if mine != its:
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

    def verify(self, splits: Iterable[str] | None = None) -> None:
        """As `Store.verify`, of all stores."""
        for store in self.stores:
            store.verify(splits)


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
        kind = self._stores[0][1]
        self._tokens = {side: self._column(f"{side}.tokens", np.dtype(kind[side]["type"])) for side in SIDES}
        self._texts = {side: self._column(f"{side}.text", TEXT) for side in SIDES}

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
        lines = []
        for store, path, count in self._shards(f"{side}.text"):
            store.blocks(path).check_all()
            lines += _lines(path.read_bytes(), count, path)
        return lines

    def _need_text(self) -> None:
        for store, facts in self._stores:
            if not facts["text"]:
                raise UserError(
                    f"{store.path}: split '{self.name}' has no raw text; make the store with keep_text=true"
                )

    def _column(self, column: str, dtype: np.dtype) -> Ragged:
        """The rows of a column, of all shards of all stores."""
        stores = {store.path: store for store, _ in self._stores}
        return Ragged([shard[1:] for shard in self._shards(column)], dtype, partial(_blocks, stores))

    def _shards(self, column: str) -> list[tuple[Store, Path, int]]:
        """The store, the file of values and the number of rows of each shard of a column."""
        return [
            (store, store.path / shard_file(self.name, shard, column), pairs)
            for store, facts in self._stores
            for shard, pairs in enumerate(facts["shards"])
        ]


def _blocks(stores: dict[Path, Store], path: Path) -> Blocks:
    return stores[path.parent].blocks(path)


def _lines(text: bytes, count: int, where: str | Path) -> list[str]:
    try:
        lines = text.decode().split("\n")[:-1]
    except UnicodeDecodeError:
        lines = []
    if len(lines) != count:
        raise UserError(f"{where}: changed since the store was made; {AGAIN}")
    return lines


def token_type(symbols: int) -> np.dtype:
    """The smallest unsigned type that holds the ids of a vocabulary of so many symbols."""
    return np.min_scalar_type(symbols - 1).newbyteorder("<")


def shard_file(split: str, shard: int, column: str) -> str:
    """The name of a shard's file of values; `column` is `SIDE.tokens` or `SIDE.text`."""
    return f"{split}-{shard:05d}.{column}"


def digest(manifest: dict[str, Any]) -> str:
    """SHA-256 of what identifies the data in a manifest: task, languages, the hashes of the files, and of
    speech how its features are made.
    """
    facts = {key: manifest.get(key) for key in ("task", "source_language", "target_language", "files")}
    facts |= {key: manifest[key] for key in ("features", "cmvn") if key in manifest}
    facts["format"] = FORMATS[0]  # of the digest: the same data has the same one whatever the manifest's format
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _without_channel(facts: Any) -> Any:
    """Facts of a manifest but for the channel that features are of, which does not make them other features."""
    return {key: value for key, value in facts.items() if key != "channel"} if isinstance(facts, dict) else facts


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
