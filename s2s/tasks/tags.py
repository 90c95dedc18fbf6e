"""Tags: named properties of a whole example, such as the language of its target.

The values of a tag are texts. A model that reads the tag gets the numbers of the values, together with the sources: in
training, validation, search, library calls and the server. A store gives each example the tags `corpus`,
`source_language` and `target_language`, from its corpus, and those that s2s-preprocess got with `tags=`.
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
    """A source with the numbers of its tags' values, by name. It has the length and the items of the source."""

    __slots__ = ("source", "tags")

    def __init__(self, source, tags: dict[str, int]):
        self.source, self.tags = source, tags

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place) -> Any:
        value = self.source[place]
        return Tagged(value, self.tags) if isinstance(place, slice) else value

    def __iter__(self) -> Iterator:
        return iter(self.source)

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.source, dtype)


def plain(source) -> Any:
    """A source without tags."""
    return source.source if isinstance(source, Tagged) else source


def of_corpus(corpus: CorpusRange) -> Tags:
    """The tags of all examples of a corpus."""
    return {
        "corpus": corpus.name,
        "source_language": corpus.source_language,
        "target_language": corpus.target_language,
        **dict(corpus.tags),
    }


def of_store(store: Store | Stores) -> dict[str, list[str]]:
    """The values of each tag in the training data of a store, in order; empty without a train split."""
    values: dict[str, dict[str, None]] = {}
    for corpus in store.split("train").corpora if "train" in store.splits else ():
        for name, value in of_corpus(corpus).items():
            values.setdefault(name, {})[value] = None
    return {name: list(distinct) for name, distinct in values.items()}


def of_split(split: Split, examples: Sequence[int]) -> list[Tags]:
    """The tags of each of some examples of a split."""
    by_corpus = list(map(of_corpus, split.corpora))
    places = np.searchsorted([corpus.last for corpus in split.corpora], examples, "right")
    return [by_corpus[place] for place in places.tolist()]


def numbers(values: Mapping[str, Sequence[str]], tags: Tags) -> dict[str, int]:
    """The numbers of the values of an example's tags.

    Args:
        values: The known values of each tag that the model reads.
        tags: The tags of the example; further tags are ignored. A tag with one value need not be there.

    Raises:
        UserError: a tag is missing, or its value is unknown.
    """
    for name, known in values.items():
        if name not in tags and len(known) > 1:
            raise UserError(f"the tag {name} is missing, which the model reads: {name}={'|'.join(known)}")
        if name in tags and tags[name] not in known:
            raise UserError(f"{name}={tags[name]}: the model does not know this value of the tag; "
                            f"{registry.nearest(tags[name], list(known))}")  # fmt: skip
    return {name: known.index(tags.get(name, known[0])) for name, known in values.items()}


def check_read(values: Mapping[str, Sequence[str]], tags: Tags) -> None:
    """Raise UserError for a tag that the model does not read."""
    for name in tags:
        if name not in values:
            known = f"it reads {', '.join(values)}" if values else "it reads none"
            raise UserError(f"{name}={tags[name]}: the model does not read this tag; {known}")


def save(values: dict[str, list[str]], folder: Path) -> None:
    """Write tags and their values into a folder; without tags, no file is written."""
    if values:
        write(folder / FILE, json.dumps({"tags": values}, ensure_ascii=False, indent=1) + "\n")


def load(folder: Path) -> dict[str, list[str]]:
    """Read the values of the tags that the model of a checkpoint reads. Raises UserError if the file is damaged."""
    return read_json(folder / FILE, {"tags": mapping([str])})["tags"] if (folder / FILE).is_file() else {}
