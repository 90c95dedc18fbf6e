"""Hashed trigrams of words: which rows of a table stand for a word. Nothing here depends on ids of a vocabulary.

Shapes: V words, A most rows of a word.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor

EDGE = "\0"  # before and after a word


def trigram_rows(words: Sequence[str], rows: int, hashes: int) -> Tensor:
    """The rows of words, int64 [V, A]: `hashes` of `rows` for each trigram, each once, in ascending order. A word with
    fewer than A rows has `rows` at the end. The empty word has the trigram of its edges."""
    lists = [sorted({zlib.crc32(f"{number} {gram}".encode("utf-8", "surrogatepass")) % rows
                     for gram in trigrams(word) for number in range(hashes)}) for word in words]  # fmt: skip
    table = torch.full((len(words), max(map(len, lists))), rows)
    for row, numbers in zip(table, lists, strict=True):
        row[: len(numbers)] = torch.tensor(numbers)
    return table


def trigrams(word: str) -> list[str]:
    """The trigrams of a word with its edges: as many as it has characters."""
    padded = f"{EDGE}{word or EDGE}{EDGE}"
    return [padded[place : place + 3] for place in range(len(padded) - 2)]
