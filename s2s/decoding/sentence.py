"""What is decoded."""

from collections.abc import Sequence
from typing import NamedTuple

Ids = list[int]


class Sentence(NamedTuple):
    """What is to be decoded: its number, source ids without EOS, forced first target tokens, phrases to hold."""

    number: int
    source: Ids
    prefix: Ids
    constraints: Sequence[Ids] = ()
