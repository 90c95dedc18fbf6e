"""Files of rows of different lengths: a file with all values, and a file with the place where each row begins.

    PATH                values of one shard, row after row
    PATH.offsets        int64 [rows + 1]: row i is offsets[i]:offsets[i + 1] of the values

A long column is divided into shards, each a pair of such files; rows are numbered over all shards. All numbers are
little-endian.
"""

import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from s2s import files
from s2s.data.blocks import BlockHasher, Blocks, damaged, unreadable

OFFSET = np.dtype("<i8")
# Mappings are dropped after this many rows or files. Until then, all pages read count as this process's memory (up to
# 2 MiB per row, if the page cache has huge pages), and every mapped file keeps a descriptor.
MAPPED_ROWS = 512
MAPPED_FILES = 128
LONG_ROW = 512  # values; longer rows (on average) are copied one by one, which needs no index for each value


class Ragged:
    """The rows of a column, which are read on demand and verified.

    Args:
        shards: The file of values and the number of rows of each shard.
        dtype: Type of the values.
        blocks: Path of a file -> its Blocks, which verify it.
    """

    def __init__(self, shards: list[tuple[Path, int]], dtype: np.dtype, blocks: Callable[[Path], Blocks]):
        self.dtype, self._blocks = dtype, blocks
        self._paths = [path for path, _ in shards]
        self._starts = np.cumsum([0, *(rows for _, rows in shards)])  # [shards + 1]: number of each shard's first row
        self._mapped: dict[Path, _Mapping] = {}
        self._gathered = 0  # rows since `_mapped` was empty

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_mapped": {}}  # another process makes its own mappings

    def lengths(self, first: int, last: int) -> np.ndarray:
        """Number of values of each of the rows first ... last - 1, int32 [last - first].

        They are read from the disk, shard by shard; memory is needed for the result and for the range of one shard.

        Raises:
            IndexError: there are no such rows.
            UserError: a file cannot be read or is damaged; the message names it.
        """
        if not 0 <= first <= last <= len(self):
            raise IndexError(f"rows {first} to {last} of {len(self)}")
        lengths, done = np.empty(last - first, np.int32), first
        for shard, path in enumerate(self._paths):
            start, end = int(self._starts[shard]), min(last, int(self._starts[shard + 1]))
            if done < end:
                counts = np.diff(_read(self._blocks(offsets_path(path)), OFFSET, done - start, end - done + 1))
                if counts.min() < 0:
                    raise damaged(offsets_path(path))
                lengths[done - first : end - first] = counts
                done = end
        return lengths

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read rows, in any order.

        Args:
            rows: Row numbers, integers [R].

        Returns:
            values: Concatenated values of the rows, `dtype` [sum of lengths].
            lengths: Number of values of each row, int64 [R].

        Raises:
            IndexError: there is no such row.
            UserError: a file cannot be read or is damaged; the message names it.
        """
        rows = np.asarray(rows, np.int64)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        if self._gathered > MAPPED_ROWS:
            self._mapped, self._gathered = {}, 0
        self._gathered += len(rows)
        shard_of = np.searchsorted(self._starts, rows, side="right") - 1
        order = np.argsort(shard_of, kind="stable")
        shards, firsts = np.unique(shard_of[order], return_index=True)
        lengths, pieces = np.empty(len(rows), np.int64), [np.empty(0, self.dtype)]
        for shard, group in zip(shards.tolist(), np.split(order, firsts[1:]), strict=False):
            piece, lengths[group] = self._gather_from(shard, rows[group] - self._starts[shard])
            pieces.append(piece)
        if len(shards) == 1:
            return pieces[1], lengths
        begins = np.empty(len(rows), np.int64)  # start of each row in the pieces, which are in the order of shards
        begins[order] = np.cumsum(lengths[order]) - lengths[order]
        return _take(np.concatenate(pieces), begins, lengths), lengths

    def _gather_from(self, shard: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`gather` for the rows of one shard, numbered within it."""
        path = self._paths[shard]
        offsets, values = self._map(offsets_path(path), OFFSET), self._map(path, self.dtype)
        if len(offsets.array) != self._starts[shard + 1] - self._starts[shard] + 1:
            raise damaged(offsets_path(path))
        offsets.check(rows, rows + 2)
        begins, ends = offsets.array[rows], offsets.array[rows + 1]
        if (ends < begins).any() or begins.min() < 0:
            raise damaged(offsets_path(path))
        if ends.max() > len(values.array):
            raise damaged(path)
        values.check(begins, ends)
        return _take(values.array, begins, ends - begins), ends - begins

    def _map(self, path: Path, dtype: np.dtype) -> "_Mapping":
        """Map a file as a read-only array, whose pages are read on access."""
        mapping = self._mapped.get(path)
        if mapping is None:
            if len(self._mapped) >= MAPPED_FILES:
                self._mapped = {}
            mapping = self._mapped[path] = _Mapping(self._blocks(path), dtype)
        memory = mapping.memory
        if memory is not None and memory.size() < len(memory):  # the file was truncated: access would kill the process
            raise damaged(path)
        return mapping  # the caller keeps it, whatever other threads drop


def _take(values: np.ndarray, begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """A copy of several ranges of `values`, concatenated, [sum of lengths]."""
    total = int(lengths.sum())
    if total > LONG_ROW * len(lengths):
        return np.concatenate([values[b:e] for b, e in zip(begins.tolist(), (begins + lengths).tolist(), strict=True)])
    return values[np.repeat(begins - (np.cumsum(lengths) - lengths), lengths) + np.arange(total)]


class _Mapping:
    """A file mapped as a read-only `array`.

    Args:
        blocks: The Blocks that verify it.
        dtype: Type of its values.

    Raises:
        UserError: the file cannot be read, or has the wrong size.
    """

    def __init__(self, blocks: Blocks, dtype: np.dtype):
        self.blocks, self.memory, self.array = blocks, None, np.empty(0, dtype)
        try:
            with open(blocks.path, "rb") as file:
                blocks.look(file.fileno())
                if blocks.size:  # an empty file cannot be mapped
                    self.memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    self.array = np.frombuffer(self.memory, dtype, len(self.memory) // dtype.itemsize)
        except OSError as error:
            raise unreadable(blocks.path, error) from error

    def check(self, begins: np.ndarray, ends: np.ndarray) -> None:
        """Verify the values begins ... ends - 1 of several ranges, integers [n]. Raises UserError naming the file."""
        size = self.array.dtype.itemsize
        self.blocks.check(begins * size, ends * size, lambda begin, end: memoryview(self.memory)[begin:end])


def _read(blocks: Blocks, dtype: np.dtype, first: int, count: int) -> np.ndarray:
    """Read `count` numbers of a file, from index `first`. Raises UserError that names a damaged file."""
    numbers, begin = np.empty(count, dtype), first * dtype.itemsize
    try:
        with open(blocks.path, "rb") as file:
            blocks.look(file.fileno())
            blocks.check(begin, begin + numbers.nbytes, lambda b, e: os.pread(file.fileno(), e - b, b))
            file.seek(begin)
            size = file.readinto(memoryview(numbers).cast("B"))
    except OSError as error:
        raise unreadable(blocks.path, error) from error
    if size < numbers.nbytes:
        raise damaged(blocks.path)
    return numbers


class RaggedWriter:
    """Appends rows to a column, and hashes its files while they are written.

    Args:
        path: Number of a shard -> its file of values.
        dtype: Type of the values.
        shard_rows: Rows per shard; a full shard is flushed to the disk and closed.
    """

    def __init__(self, path: Callable[[int], Path], dtype: np.dtype, shard_rows: int):
        self.dtype = dtype.newbyteorder("<")
        self.shards: list[int] = []  # rows of each shard so far
        self.values = self.longest = 0  # number of values of all rows, and of the longest row
        self._path, self._shard_rows = path, shard_rows
        self._open: tuple[_HashedFile, _HashedFile] | None = None  # values and offsets of the last shard
        self._end = 0
        self._files: dict[str, BlockHasher] = {}

    def append(self, values: np.ndarray, lengths: np.ndarray) -> None:
        """Append rows.

        Args:
            values: Concatenated values of the rows, [sum of lengths].
            lengths: Number of values of each row, [rows].
        """
        if len(lengths):
            self.values, self.longest = self.values + int(lengths.sum()), max(self.longest, int(lengths.max()))
        while len(lengths):
            if self._open is None:
                self._begin()
            rows = min(len(lengths), self._shard_rows - self.shards[-1])
            ends = np.cumsum(lengths[:rows], dtype=OFFSET)
            self._open[0].write(np.ascontiguousarray(values[: ends[-1]], self.dtype))
            self._open[1].write(ends + self._end)
            values, lengths = values[ends[-1] :], lengths[rows:]
            self._end += int(ends[-1])
            self.shards[-1] += rows
            if self.shards[-1] == self._shard_rows:
                self._finish()

    def close(self) -> dict[str, BlockHasher]:
        """Flush to the disk; returns the hashes of each file by name."""
        if self._open is not None:
            self._finish()
        return self._files

    def abandon(self) -> None:
        for file in self._open or ():
            file.abandon()

    def _begin(self) -> None:
        path = self._path(len(self.shards))
        self._open = _HashedFile(path), _HashedFile(offsets_path(path))
        self._open[1].write(np.zeros(1, OFFSET))
        self._end = 0
        self.shards.append(0)

    def _finish(self) -> None:
        for file in self._open:
            self._files[file.path.name] = file.close()
        self._open = None


class _HashedFile:
    """A new file that is hashed while it is written; errors name it."""

    def __init__(self, path: Path):
        self.path, self._hasher = path, BlockHasher()
        self._file = open(path, "xb", buffering=0)  # noqa: SIM115 (chunks are large; closed below)

    def write(self, array: np.ndarray) -> None:
        view = memoryview(array).cast("B") if array.size else memoryview(b"")
        self._hasher.update(view)
        with files.naming(self.path):
            while view:  # an unbuffered file may take only a part
                view = view[self._file.write(view) :]

    def close(self) -> BlockHasher:
        with files.naming(self.path):
            os.fsync(self._file.fileno())
        self._file.close()
        return self._hasher

    def abandon(self) -> None:
        self._file.close()


def offsets_path(path: Path) -> Path:
    """The file of offsets that belongs to a file of values."""
    return path.with_name(f"{path.name}.offsets")
