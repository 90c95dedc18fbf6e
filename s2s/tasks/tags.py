"""Tags: what is said of a whole example by name, such as the language of its target.

A tag has values, which are texts; a model that reads it gets their numbers wherever sources go: in training,
validation, search, the library's call and the server. What a store knows of its corpora are tags: `corpus`,
`source_language` and `target_language`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from s2s import registry
from s2s.config.documents import read_json
from s2s.config.shapes import mapping
from s2s.data.split import CorpusRange, Split
from s2s.data.store import Store, Stores
from s2s.errors import UserError
from s2s.files import write

FILE = "tags.json"

Tags = Mapping[str, str]  # value by name


class Tagged:
    """A source with the numbers of its tags' values, by name. Its length and its parts are the source's."""

    __slots__ = ("source", "tags")

    def __init__(self, source, tags: dict[str, int]):
        self.source, self.tags = source, tags

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place) -> Any:
        part = self.source[place]
        return Tagged(part, self.tags) if isinstance(place, slice) else part

    def __iter__(self) -> Iterator:
        return iter(self.source)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.source, dtype)


def plain(source) -> Any:
    """A source without tags."""
    return source.source if isinstance(source, Tagged) else source


def of_corpus(corpus: CorpusRange) -> Tags:
    """What a store knows of a corpus."""
    return {
        "corpus": corpus.name,
        "source_language": corpus.source_language,
        "target_language": corpus.target_language,
    }


def of_store(store: Store | Stores) -> dict[str, list[str]]:
    """The values of each tag in the training data of a store, in their order; of a store without it, none."""
    values: dict[str, dict[str, None]] = {}
    for corpus in store.split("train").corpora if "train" in store.splits else ():
        for name, value in of_corpus(corpus).items():
            values.setdefault(name, {})[value] = None
    return {name: list(found) for name, found in values.items()}


def of_split(split: Split, examples: Sequence[int]) -> list[Tags]:
    """Of each example."""
    found = list(map(of_corpus, split.corpora))
    places = np.searchsorted([corpus.last for corpus in split.corpora], examples, "right")
    return [found[place] for place in places.tolist()]


def numbers(values: Mapping[str, Sequence[str]], tags: Tags) -> dict[str, int]:
    """The numbers of the values of an example's tags.

    Args:
        values: Of each tag that the model reads.
        tags: Of the example; others than those are not looked at.

    Raises:
        UserError: a tag is missing, or its value is unknown.
    """
    for name, known in values.items():
        if name not in tags:
            raise UserError(f"the model reads the tag {name}, and it is missing: {name}={'|'.join(known)}")
        if tags[name] not in known:
            raise UserError(f"{name}={tags[name]}: the model does not know this value of the tag; "
                            f"{registry.nearest(tags[name], list(known))}")  # fmt: skip
    return {name: known.index(tags[name]) for name, known in values.items()}


def check_read(values: Mapping[str, Sequence[str]], tags: Tags) -> None:
    """Raise UserError for a tag that the model does not read."""
    for name in tags:
        if name not in values:
            has = f"it reads {', '.join(values)}" if values else "it reads none"
            raise UserError(f"{name}={tags[name]}: the model does not read this tag; {has}")


def parse(words: Sequence[str]) -> dict[str, str]:
    """Tags of words, NAME=VALUE each. Raises UserError."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(f"'{word}' is no tag; NAME=VALUE is needed, such as target_language=de")
        if name in found:
            raise UserError(f"the tag {name} is there twice")
        found[name] = value
    return found


def save(values: dict[str, list[str]], folder: Path) -> None:
    """Write what `load` reads, if there is anything."""
    if values:
        write(folder / FILE, json.dumps({"tags": values}, ensure_ascii=False, indent=1) + "\n")


def load(folder: Path) -> dict[str, list[str]]:
    """The values of the tags that the model of a checkpoint reads. Raises UserError naming a wrong file."""
    return read_json(folder / FILE, {"tags": mapping([str])})["tags"] if (folder / FILE).is_file() else {}
