"""A sentence to decode."""

from collections.abc import Sequence
from typing import NamedTuple

Ids = list[int]


class Sentence(NamedTuple):
    """A sentence to decode.

    Attributes:
        number: Its number.
        source: Source ids, without EOS.
        prefix: Target tokens with which its hypotheses must start.
        constraints: Phrases that its hypotheses must contain.
    """

    number: int
    source: Ids
    prefix: Ids
    constraints: Sequence[Ids] = ()
