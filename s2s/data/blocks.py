"""Hashes of a file's blocks: what is read of a large file is verified, and nothing else of it need be read."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from s2s.errors import UserError

BLOCK = 1 << 18  # bytes: at its first reading a row costs the hash of so many
DIGEST = 32
PIECE = 1 << 20  # bytes that are hashed at a time

Read = Callable[[int, int], bytes | memoryview]  # bytes begin ... end - 1 of a file


class BlockHasher:
    """The SHA-256 of a file that is being written, and those of its blocks.

    Attributes:
        size: Bytes so far.
        digests: Of the blocks that are full, and when the file is `closed` of the last one too.
    """

    def __init__(self):
        self.size, self.digests = 0, bytearray()
        self._whole, self._block = hashlib.sha256(), hashlib.sha256()

    def update(self, content: bytes | memoryview) -> None:
        view = memoryview(content)
        self._whole.update(view)
        while view:
            part, view = view[: BLOCK - self.size % BLOCK], view[BLOCK - self.size % BLOCK :]
            self._block.update(part)
            self.size += len(part)
            if self.size % BLOCK == 0:
                self._next()

    def close(self) -> str:
        """The file is complete; returns its SHA-256, hexadecimal."""
        if self.size % BLOCK:
            self._next()
        return self._whole.hexdigest()

    def _next(self) -> None:
        self.digests += self._block.digest()
        self._block = hashlib.sha256()


class Blocks:
    """What a file must hold, and which of its blocks were seen to hold it.

    Args:
        path: The file.
        size: Its bytes.
        digests: SHA-256 of each block, one after the other.
        block: Bytes of a block; only the last one may be shorter.
    """

    def __init__(self, path: Path, size: int, digests: bytes, block: int = BLOCK):
        self.path, self.size, self.digests, self.block = path, size, digests, max(1, block)
        self._seen = np.zeros(len(digests) // DIGEST, bool)
        self._all = not len(self._seen)
        self._stamp: tuple[int, int, int] | None = None

    def look(self, descriptor: int) -> None:
        """The file was opened. Another one than before has been seen in no block.

        Raises:
            UserError: its size is not what it must be.
        """
        found = os.fstat(descriptor)
        if found.st_size != self.size:
            raise damaged(self.path)
        stamp = found.st_size, found.st_mtime_ns, found.st_ino
        if stamp != self._stamp:
            self._seen[:], self._all, self._stamp = False, not len(self._seen), stamp

    def check(self, begins: np.ndarray | int, ends: np.ndarray | int, read: Read) -> None:
        """Verify the blocks that hold some stretches of the file, but for those that were verified before.

        Args:
            begins, ends: Byte numbers, integers [n] or one; a stretch may be empty.
            read: Reads the file.

        Raises:
            UserError: a block is not what was written; the message names the file.
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
        """Verify the whole file. Raises UserError that names it: it cannot be read, or is not what was written."""
        try:
            with open(self.path, "rb") as file:
                self.look(file.fileno())
                self.check(0, self.size, lambda begin, end: os.pread(file.fileno(), end - begin, begin))
        except OSError as error:
            raise unreadable(self.path, error) from error


def damaged(path: Path) -> UserError:
    """The error of a file of a store that is not what was written."""
    return UserError(f"{path}: truncated or changed since the store was made; make the store again")


def unreadable(path: Path, error: OSError) -> UserError:
    """The error of a file of a store that cannot be read."""
    return UserError(f"{path}: this file of the store cannot be read: {error.strerror}")
