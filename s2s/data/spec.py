"""What a model knows about its data, and all that it knows."""

import dataclasses

from s2s.errors import UserError


@dataclasses.dataclass(frozen=True)
class TokenSource:
    """Token ids.

    Attributes:
        size: Symbols of the vocabulary.
    """

    size: int


@dataclasses.dataclass(frozen=True)
class FeatureSource:
    """Frames of features.

    Attributes:
        width: Features of a frame.
    """

    width: int


SourceSpec = TokenSource | FeatureSource


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a task's examples look like.

    Attributes:
        sources: Of each source, what it is. Empty: an example is its target alone.
        target_size: V, symbols of the target's vocabulary.
        shared: The first source has the target's vocabulary.
        tags: Values of each tag that an example has, by the tag's name.
        alike: All sources have the same vocabulary.
    """

    sources: tuple[SourceSpec, ...]
    target_size: int
    shared: bool = False
    tags: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    alike: bool = False


# What sources are, in words, and a model that reads them.
NAMES: dict[tuple[type, ...], tuple[str, str]] = {
    (TokenSource,): ("text", "model=transformer_base"),
    (FeatureSource,): ("recordings", "model=conformer_small"),
    (): ("no source", "model=transformer_lm_small"),
}


def check_sources(spec: Spec, kinds: tuple[type, ...], reader: str) -> None:
    """Check that a task has the kinds of sources that a model reads.

    Args:
        spec: Of the task.
        kinds: Of the sources that are read.
        reader: The option that says what is read.

    Raises:
        UserError: it has others.
    """
    given = tuple(type(source) for source in spec.sources)
    if given != kinds:
        has, model = NAMES.get(given, (f"{len(given)} sources", "another model"))
        reads, _ = NAMES.get(kinds, (", ".join(kind.__name__ for kind in kinds), ""))
        raise UserError(f"{reader} reads {reads}, and the task has {has}; try {model}")
