"""Columns of a store: named values of each example. A task declares them; the store itself knows no tasks.

A column NAME is a pair of files for each shard (`s2s.data.ragged`): `SPLIT-SHARD.NAME` and `SPLIT-SHARD.NAME.offsets`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2s.config.shapes import one_of, text, whole
from s2s.errors import UserError

BYTES = "|u1"
# Kinds of columns, the types of their values, and what an example has in such a column.
KINDS = {
    "tokens": (BYTES, "<u2", "<u4"),  # ids of a vocabulary
    "text": (BYTES,),  # a line of UTF-8, its line feed included
    "json": (BYTES,),  # a line of UTF-8 with a JSON object: facts about the example
    "array": (BYTES, "<i2", "<i4", "<i8", "<f2", "<f4", "<f8"),  # any number of rows, each of `width` values
    "number": ("<i8", "<f8"),  # a single number
}
COLUMN = {
    "kind": one_of(*KINDS), "type": one_of(*dict.fromkeys(name for types in KINDS.values() for name in types)),
    "width": whole(1), "values": whole(0), "longest": whole(0),
}  # fmt: skip
NAME = text(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?", "the name of a column")


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        name: Name of the column. Columns of the same stream have the same prefix: `source.tokens` and `source.text`.
        kind: A key of KINDS.
        type: Type of the values, as numpy spells it.
        width: Values per row of an array, such as the features of a frame.

    Raises:
        ValueError: kind, type and width do not go together.
    """

    name: str
    kind: str
    type: str = BYTES
    width: int = 1

    def __post_init__(self):
        if self.type not in KINDS.get(self.kind, ()) or self.width < 1 or (self.width > 1 and self.kind != "array"):
            raise ValueError(f"column {self.name}: no kind {self.kind} of type {self.type} and width {self.width}")

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.type)

    @property
    def is_text(self) -> bool:
        return self.kind in ("text", "json")


def tokens(name: str, symbols: int) -> Column:
    """A column of token ids, in the smallest type for a vocabulary of `symbols` symbols."""
    return Column(name, "tokens", np.min_scalar_type(symbols - 1).newbyteorder("<").str)


def facts_of(column: Column, values: int, longest: int) -> dict[str, Any]:
    """The entry of a column in a manifest; `values` and `longest`: values of all examples, and of the longest one."""
    return {"kind": column.kind, "type": column.type, "width": column.width, "values": values, "longest": longest}


def of_facts(name: str, facts: dict[str, Any]) -> Column:
    """The column that an entry of a manifest describes. Raises UserError."""
    try:
        return Column(name, facts["kind"], facts["type"], facts["width"])
    except ValueError as error:
        raise UserError(str(error)) from error


def of_old_split(split: dict[str, Any], features: dict[str, Any] | None) -> dict[str, dict[str, Any]]:
    """The columns of a split in a manifest of format 2 or 3.

    Args:
        split: The entry of the split.
        features: The entry `features` of the manifest, for a store of speech; otherwise None.
    """

    def stream(name: str) -> Iterable[tuple[str, dict[str, Any]]]:
        lengths, facts = split[name]["lengths"], split[name]
        kind = Column(f"{name}.tokens", "tokens", facts["type"])
        yield kind.name, facts_of(kind, facts.get("tokens", 0), lengths["max"])
        if split["text"]:
            yield f"{name}.text", facts_of(Column(f"{name}.text", "text"), 0, 0)

    if features is None:
        return {**dict(stream("source")), **dict(stream("target"))}
    keep, width = features["keep"], features["bins"] if features["keep"] == "features" else 1
    source = Column(f"source.{keep}", "array", split["source"]["type"], width)
    known = Column("source.utterance", "json")
    longest = split["source"]["lengths"]["max"] * width  # of a waveform in frames
    return {
        source.name: facts_of(source, 0, longest), known.name: facts_of(known, 0, 0), **dict(stream("target"))
    }  # fmt: skip
