"""The description of a task's data for models: sources, vocabularies and tags. Models know nothing else of the data."""

import dataclasses

from s2s.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenSource:
    """A source of token ids.

    Attributes:
        size: Size of the vocabulary.
        word_starts: Ids of the symbols that begin a word, such as the space before it. Empty: none is known to.
    """

    size: int
    word_starts: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """A source of feature frames.

    Attributes:
        width: Features per frame.
    """

    width: int


SourceSpec = TokenSource | FeatureSource


@dataclasses.dataclass(frozen=True)
class Spec:
    """The description of a task's examples.

    Attributes:
        sources: The kind of each source. Empty: an example has only a target.
        target_size: V, size of the target vocabulary.
        shared: Whether the first source has the target's vocabulary.
        tags: Name of each tag -> its values.
        alike: Whether all sources have the same vocabulary.
        positions: Whether the target's symbols are positions of the source, from the fifth on.
        target_symbols: The target's symbols; empty: unknown.
        same: For each symbol of the first source, the target's symbol of the same spelling, or UNK; None: unknown.
        target_starts: Ids of the target's symbols that begin a word, as in TokenSource.
    """

    sources: tuple[SourceSpec, ...]
    target_size: int
    shared: bool = False
    tags: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    alike: bool = False
    positions: bool = False
    same: tuple[int, ...] | None = None
    target_symbols: tuple[str, ...] = ()
    target_starts: tuple[int, ...] = ()


# Kinds of sources -> their description for messages, and a model that reads them.
NAMES: dict[tuple[type, ...], tuple[str, str]] = {
    (TokenSource,): ("text", "model=transformer_base"),
    (FeatureSource,): ("recordings", "model=conformer_small"),
    (): ("no source", "model=transformer_lm_small"),
}


def sources_in_words(spec: Spec) -> str:
    """What the examples of a task have for sources."""
    given = tuple(type(source) for source in spec.sources)
    return NAMES[given][0] if given in NAMES else f"{len(given)} sources"


def check_sources(spec: Spec, kinds: tuple[type, ...], reader: str) -> None:
    """Check that a task has the kinds of sources that a model reads.

    Args:
        spec: The description of the task's data.
        kinds: Kinds of sources that the model reads.
        reader: The setting that decides this, for the message.

    Raises:
        UserError: the task has other sources.
    """
    given = tuple(type(source) for source in spec.sources)
    if given != kinds:
        has, (_, model) = sources_in_words(spec), NAMES.get(given, ("", "another model"))
        reads, _ = NAMES.get(kinds, (", ".join(kind.__name__ for kind in kinds), ""))
        raise UserError(f"{reader} reads {reads}, and the task has {has}; try {model}")
