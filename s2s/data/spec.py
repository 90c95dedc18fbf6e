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
    """

    sources: tuple[SourceSpec, ...]
    target_size: int
    shared: bool = False
    tags: dict[str, list[str]] = dataclasses.field(default_factory=dict)


# What sources are, in words, and a model that reads them.
NAMES: dict[tuple[type, ...], tuple[str, str]] = {
    (TokenSource,): ("text", "model=transformer_base"),
    (FeatureSource,): ("recordings", "model=conformer_small"),
    (): ("no source", "model=transformer_lm_small"),
}


def check_sources(spec: Spec, kinds: tuple[type, ...], model: str) -> None:
    """Whether a task has the kinds of sources that a model is for. Raises UserError."""
    found = tuple(type(source) for source in spec.sources)
    if found != kinds:
        has, other = NAMES.get(found, (f"{len(found)} sources", "another model"))
        raise UserError(f"model.type={model}: is for {NAMES[kinds][0]}, and the task has {has}: {other}")
