"""Hashes of the blocks of a file: every part that is read of a large file is verified, without reading the rest."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2s.errors import UserError

BLOCK = 1 << 18  # bytes of a block; to read any row for the first time, a block must be hashed
DIGEST = 32
PIECE = 1 << 20  # bytes hashed at a time

Read = Callable[[int, int], bytes | memoryview]  # bytes begin ... end - 1 of a file


class BlockHasher:
    """Computes the SHA-256 of a file while it is written, and those of its blocks.

    Attributes:
        size: Bytes so far.
        digests: Digests of the complete blocks; after `close` also that of the last one.
    """

    def __init__(self):
        self.size, self.digests = 0, bytearray()
        self._file, self._block = hashlib.sha256(), hashlib.sha256()

    def update(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        self._file.update(view)
        while view:
            piece, view = view[: BLOCK - self.size % BLOCK], view[BLOCK - self.size % BLOCK :]
            self._block.update(piece)
            self.size += len(piece)
            if self.size % BLOCK == 0:
                self._next()

    def close(self) -> str:
        """Complete the file; returns its SHA-256 in hexadecimal."""
        if self.size % BLOCK:
            self._next()
        return self._file.hexdigest()

    def _next(self) -> None:
        self.digests += self._block.digest()
        self._block = hashlib.sha256()


class Blocks:
    """Verifies blocks of a file, and remembers which of them were verified.

    Args:
        path: The file.
        size: Its size in bytes.
        digests: Concatenated SHA-256 digests of the blocks.
        block: Bytes of a block; only the last one may be shorter.
    """

    def __init__(self, path: Path, size: int, digests: bytes, block: int = BLOCK):
        self.path, self.size, self.digests, self.block = path, size, digests, max(1, block)
        self._seen = np.zeros(len(digests) // DIGEST, bool)
        self._all = not len(self._seen)
        self._stamp: tuple[int, int, int] | None = None

    def look(self, descriptor: int) -> None:
        """Check the size of the file after it was opened. If the file was replaced, no block of it counts as verified.

        Raises:
            UserError: its size is wrong.
        """
        status = os.fstat(descriptor)
        if status.st_size != self.size:
            raise damaged(self.path)
        stamp = status.st_size, status.st_mtime_ns, status.st_ino
        if stamp != self._stamp:
            self._seen[:], self._all, self._stamp = False, not len(self._seen), stamp

    def check(self, begins: np.ndarray | int, ends: np.ndarray | int, read: Read) -> None:
        """Verify the blocks of some ranges of the file, unless they were verified before.

        Args:
            begins, ends: Byte ranges, arrays [n] or single integers; a range may be empty.
            read: Reads a byte range of the file.

        Raises:
            UserError: a block has changed; the message names the file.
        """
        if self._all:
            return
        firsts = np.atleast_1d(begins) // self.block
        counts = np.atleast_1d((ends + self.block - 1) // self.block) - firsts
        counts[np.atleast_1d(ends) <= begins] = 0
        blocks = np.repeat(firsts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum())
        for number in np.unique(blocks[~self._seen[blocks]]).tolist():
            begin, sha = number * self.block, hashlib.sha256()
            end = min(begin + self.block, self.size)
            for place in range(begin, end, PIECE):
                sha.update(read(place, min(place + PIECE, end)))
            if sha.digest() != self.digests[DIGEST * number : DIGEST * (number + 1)]:
                raise damaged(self.path)
            self._seen[number] = True
        self._all = bool(self._seen.all())

    def check_all(self) -> None:
        """Verify the whole file. Raises UserError if it has changed or cannot be read; the message names it."""
        try:
            with open(self.path, "rb") as file:
                self.look(file.fileno())
                self.check(0, self.size, lambda begin, end: os.pread(file.fileno(), end - begin, begin))
        except OSError as error:
            raise unreadable(self.path, error) from error


def damaged(path: Path) -> UserError:
    """The error for a file of a store that has changed."""
    return UserError(f"{path}: truncated or changed since the store was made; make the store again")


def unreadable(path: Path, error: OSError) -> UserError:
    """The error for a file of a store that cannot be read."""
    return UserError(f"{path}: this file of the store cannot be read: {error.strerror}")
