"""Writes a store under a temporary name, and renames it when it is complete."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from s2s.config.documents import read_json
from s2s.data.blocks import BLOCK, BlockHasher
from s2s.data.columns import Column, facts_of
from s2s.data.ragged import RaggedWriter
from s2s.data.split import shard_file
from s2s.data.store import BLOCKS, FORMATS, describes_store, digest
from s2s.errors import UserError
from s2s.files import claim, file_hash, whole_folder, write
from s2s.manifests import MANIFEST, write_manifest
from s2s.text.tokenizer import Tokenizer, check_output


class StoreWriter:
    """Writes a store; a context manager. After `commit` the store is in its place; without it nothing is left.

    Args:
        path: Folder of the store. No other process can write to it while the context is open.
        overwrite: Whether to replace an existing store.
        shard_pairs: Maximum number of examples in a shard.

    Raises:
        UserError: the folder is taken, or another process is writing to it.
    """

    def __init__(self, path: str | Path, overwrite: bool, shard_pairs: int = 10_000_000):
        self.path, self.overwrite, self.shard_pairs = Path(path), overwrite, shard_pairs
        check_free(path, overwrite)
        self._open: dict[str, dict[Column, RaggedWriter]] = {}  # split -> column -> its writer
        self._files: dict[str, BlockHasher] = {}

    def __enter__(self) -> "StoreWriter":
        with ExitStack() as stack:
            stack.enter_context(claim(self.path, "store"))
            check_free(self.path, self.overwrite)  # the process that had the claim may have written a store
            self._place = stack.enter_context(ExitStack())
            self.folder = self._place.enter_context(whole_folder(self.path))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_) -> None:
        for column in self._writers():
            column.abandon()
        try:
            self._place.__exit__(_Left, _Left(), None)  # after `commit` this does nothing
        except _Left:
            pass
        finally:
            self._stack.close()

    def add_tokenizer(self, tokenizer: Tokenizer, name: str) -> None:
        """Write the tokenizer of the stream `name`. Raises UserError if it cannot be a target tokenizer."""
        if name == "target":
            check_output(tokenizer.config, "tokenizer")
        tokenizer.save(self.folder, name)
        for path in self.folder.glob(f"{name}.*"):
            hasher = self._files[path.name] = BlockHasher()
            hasher.update(path.read_bytes())

    def column(self, split: str, column: Column) -> RaggedWriter:
        """Begin a new column of a split."""

        def path(shard: int) -> Path:
            return self.folder / shard_file(split, shard, column.name)

        writer = RaggedWriter(path, column.dtype, self.shard_pairs)
        self._open.setdefault(split, {})[column] = writer
        return writer

    def _writers(self) -> list[RaggedWriter]:
        return [writer for columns in self._open.values() for writer in columns.values()]

    def _split_facts(self, split: str) -> dict[str, Any]:
        """The entries of the columns of a split, for the manifest. Raises ValueError if the columns have different
        numbers of examples."""
        shards = [writer.shards for writer in self._open[split].values()]
        if any(sizes != shards[0] for sizes in shards):
            raise ValueError(f"split {split}: its columns do not have the same number of examples")
        described = {column.name: facts_of(column, writer.values, writer.longest)
                     for column, writer in self._open[split].items()}  # fmt: skip
        return {"pairs": sum(shards[0]), "shards": shards[0], "columns": described}

    def commit(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Complete the store, and rename it to its final name.

        Args:
            facts: The manifest without format, files and digest, and without `pairs`, `shards` and `columns` of splits.

        Returns:
            The manifest.
        """
        for column in self._writers():
            self._files |= column.close()
        splits = {name: {**self._split_facts(name), **of_split} for name, of_split in facts["splits"].items()}
        self._open = {}
        files = {name: {"size": hasher.size, "sha256": hasher.close()} for name, hasher in sorted(self._files.items())}
        write(self.folder / BLOCKS, b"".join(hasher.digests for _, hasher in sorted(self._files.items())))
        others = sorted(path for path in self.folder.iterdir() if path.name not in files)
        manifest = {
            "format": FORMATS[-1],
            **facts,
            "splits": splits,
            "files": files,
            "other_files": {path.name: {"size": path.stat().st_size, "sha256": file_hash(path)} for path in others},
            "block_size": BLOCK,
        }
        manifest["digest"] = digest(manifest)
        write_manifest(self.folder, manifest)
        self._place.close()
        return manifest


class _Left(Exception):
    """Raised internally to discard an incomplete store."""


def check_free(path: str | Path, overwrite: bool) -> None:
    """Check that a store may be written to a folder.

    Raises:
        UserError: the folder has something else in it, or a store and `overwrite` is false.
    """
    path = Path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not _is_store(path):
        raise UserError(f"store={path}: holds something that is not a store; choose another folder")
    if not overwrite:
        raise UserError(f"store={path}: the store exists already; overwrite=true replaces it")


def _is_store(path: Path) -> bool:
    try:
        return describes_store(read_json(path / MANIFEST))
    except UserError:
        return False
