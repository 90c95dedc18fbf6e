"""Selection of parameters of a model: by its parts, and by patterns of names."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from s2s.errors import UserError

MORE = re.compile(r"^more_(frontend|encoder)s\.\d+\.")  # of the sources after the first
PARTS = ("embeddings", "encoder", "bridge", "decoder")
# Prefixes of the names of parameters with a row for each symbol, and of those beside them.
EMBEDDINGS = (
    "frontend.embedding.",
    "frontend.tokens.",
    "frontend.rows.",
    "decoder.embedding.",
    "output.",
    "encoder.ctc.",
    "encoder.conditioning.",
)


def part_of(name: str) -> str:
    """The part that a parameter belongs to, by its name. A front-end belongs to the encoder, and the encoders of all
    sources are one part."""
    name = MORE.sub(r"\1.", name)
    if name.startswith(EMBEDDINGS):
        return "embeddings"
    first = name.partition(".")[0]
    return "encoder" if first == "frontend" else first


def counts(model: nn.Module) -> dict[str, int]:
    """Number of parameters of each part; a shared matrix counts once."""
    sizes: dict[str, int] = {}
    for name, p in model.named_parameters():
        sizes[part_of(name)] = sizes.get(part_of(name), 0) + p.numel()
    return sizes


def all_names(model: nn.Module) -> dict[str, list[str]]:
    """All names of each parameter, by its name in `named_parameters`. A shared matrix has several names."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return {several[0]: several for several in names.values()}


def select(model: nn.Module, patterns: Iterable[str], key: str) -> set[str]:
    """Names of the parameters that match any of several patterns.

    Args:
        model: The model.
        patterns: Each is a part (`encoder`), or a pattern with * that matches a name or a prefix of it up to a dot
            (`encoder.layers.0`, `*norm`, `decoder.layers.*.cross`). A shared matrix matches by any of its names.
        key: The option that holds the patterns, for errors.

    Raises:
        UserError: a pattern that matches nothing; the message suggests the closest name.
    """
    return matching(all_names(model), patterns, key, "parameter")


def matching(names: dict[str, list[str]], patterns: Iterable[str], key: str, what: str) -> set[str]:
    """As `select`, for names of anything.

    Args:
        names: All names of each thing, by its first one.
        patterns, key: As in `select`.
        what: What is named, for errors.
    """
    selected = set()
    for pattern in patterns:
        those = {first for first, several in names.items() if any(_meant(name, pattern) for name in several)}
        if not those:
            words = [name.split(".") for several in names.values() for name in several]
            known = {".".join(parts[:length]) for parts in words for length in range(1, len(parts) + 1)}
            (close,) = get_close_matches(pattern, sorted({*known, *PARTS}), n=1, cutoff=0.0)
            raise UserError(f"{key}: '{pattern}' matches no {what} of the model; did you mean '{close}'?")
        selected |= those
    return selected


def _meant(name: str, pattern: str) -> bool:
    """Whether a pattern matches something of this name."""
    if pattern in PARTS:
        return part_of(name) == pattern
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
