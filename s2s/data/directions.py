"""Stores of several directions, and tags of all examples of a store.

A direction is a pair of languages. It has a corpus of its own for each file or prefix of the data, so mixing, tags and
metrics of directions are those of corpora.
"""

import sys
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from s2s.data.corpus import ENDINGS, Chunk, Corpus, is_table
from s2s.data.lines import LineReader
from s2s.errors import UserError

Direction = tuple[str, str]  # source language, target language
LANGUAGES = ("source_language", "target_language")  # tags
OWN = ("corpus", *LANGUAGES)  # tags that every corpus has
SHOWN = 5  # directions that a message names


def parse_tags(words: Sequence[str]) -> dict[str, str]:
    """Parse words NAME=VALUE as tags. Raises UserError."""
    tags: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not (name and equals and value):
            raise UserError(f"'{word}' is not a tag; write NAME=VALUE, such as target_language=de")
        if name in tags:
            raise UserError(f"the tag {name} is given twice")
        tags[name] = value
    return tags


def parse_directions(words: Sequence[str]) -> list[Direction]:
    """Parse words SOURCE-TARGET as directions. Raises UserError."""
    directions: list[Direction] = []
    for word in words:
        source, _, target = word.partition("-")
        if not (source and target) or "-" in target:
            raise UserError(f"languages: '{word}' is not a direction; write two languages with a hyphen between them, "
                            "such as de-en")  # fmt: skip
        if (source, target) in directions:
            raise UserError(f"languages: {word} is given twice")
        directions.append((source, target))
    return directions


def languages(directions: Sequence[Direction]) -> list[str]:
    """All languages, in the order of their first direction."""
    return list(dict.fromkeys(language for direction in directions for language in direction))


@dataclass(frozen=True)
class DirectedCorpus(Corpus):
    """The lines of one direction.

    Attributes:
        direction: The direction.
        column: Whether the languages of each line are the first two columns of a TSV file.
    """

    direction: Direction = ("", "")
    column: bool = False

    @property
    def source_language(self) -> str:
        return self.direction[0]

    @property
    def target_language(self) -> str:
        return self.direction[1]

    def chunks(self) -> Iterator[Chunk]:
        """As in Corpus. Lines of other directions are left out."""
        if not self.column:
            yield from super().chunks()
            return
        start, read = "\t".join((*self.direction, "")).encode(), 0
        for chunk in super().chunks():
            lines = chunk.parts[0].removeprefix(BOM_UTF8 if chunk.first_line == 1 else b"").split(b"\n")
            places = [place for place, line in enumerate(lines) if line.startswith(start)]
            read += chunk.read
            if places:
                part = b"".join(lines[place][len(start) :] + b"\n" for place in places)
                numbers = tuple(chunk.first_line + place for place in places)
                yield replace(chunk, parts=(part,), read=read, numbers=numbers)
                read = 0


def find_directed(name: str, directions: Sequence[Direction], max_line_bytes: int) -> list[DirectedCorpus]:
    """The corpora of a prefix or a TSV file: one for each direction that it has.

    The files of a direction de-en are PREFIX.de-en.de and PREFIX.de-en.en; or those of en-de, which are the same pairs;
    or PREFIX.de and PREFIX.en. In a TSV file the first two columns of a line are its languages.

    Raises:
        UserError: it has none of the directions, or is a stream, which cannot be read once for each direction.
    """
    find = partial(DirectedCorpus.find, max_line_bytes=max_line_bytes)
    if is_table(name):
        plain = find(name, ())
        if plain.is_stream:
            raise UserError(f"{name}: a stream can be read only once, and languages= reads it for each direction")
        having = _in_table(plain.paths[0], max_line_bytes, directions)
        corpora = [replace(plain, direction=direction, column=True) for direction in directions if direction in having]
    else:
        stems = {direction: _stem(name, *direction) for direction in directions}
        corpora = [replace(find(stem, direction), direction=direction) for direction, stem in stems.items() if stem]
    if not corpora:
        raise UserError(f"{name}: has none of the directions {', '.join(map('-'.join, directions))}")
    return [replace(corpus, name=f"{name}.{'-'.join(corpus.direction)}") for corpus in corpora]


def _stem(prefix: str, source: str, target: str) -> str | None:
    """What the names of the files of a direction begin with; None: there are no files."""
    for stem in (f"{prefix}.{source}-{target}", f"{prefix}.{target}-{source}", prefix):
        if all(any(Path(f"{stem}.{side}{end}").is_file() for end in ENDINGS) for side in (source, target)):
            return stem
    return None


def _in_table(path: Path, max_line_bytes: int, directions: Sequence[Direction]) -> set[Direction]:
    """The directions in a TSV file; a note says what is left out."""
    counts: Counter[tuple[str, ...]] = Counter()
    reader = LineReader(path, max_line_bytes)
    while lines := reader.read(1 << 18):
        counts.update(
            tuple(line.decode("utf-8", "replace").removeprefix("\ufeff").split("\t", 2)[:2]) for line in lines
        )
    reader.close()
    if others := [(key, count) for key, count in counts.most_common() if key not in directions]:
        named = ", ".join(f"{count:,} of {'-'.join(map(str.strip, key))[:40]}" for key, count in others[:SHOWN])
        more = " and others" if len(others) > SHOWN else ""
        print(f"note: {path}: lines that languages= does not name are left out: {named}{more}", file=sys.stderr)
    return {direction for direction in directions if direction in counts}
