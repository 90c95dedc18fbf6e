"""Which parameters of a model are meant: its parts, and patterns of names."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from s2s.errors import UserError

MORE = re.compile(r"^more_(frontend|encoder)s\.\d+\.")  # of the sources after the first
PARTS = ("embeddings", "encoder", "bridge", "decoder")
# Beginnings of the names of what has a row for each symbol, and of what goes with it.
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
    """The part that a parameter belongs to, by its name; a front-end's belong to the encoder, and those of all sources
    have their parts together."""
    name = MORE.sub(r"\1.", name)
    if name.startswith(EMBEDDINGS):
        return "embeddings"
    first = name.partition(".")[0]
    return "encoder" if first == "frontend" else first


def counts(model: nn.Module) -> dict[str, int]:
    """How many numbers each part has, shared ones counted once."""
    found: dict[str, int] = {}
    for name, p in model.named_parameters():
        found[part_of(name)] = found.get(part_of(name), 0) + p.numel()
    return found


def all_names(model: nn.Module) -> dict[str, list[str]]:
    """Every parameter's name as in `named_parameters`, and all of its names: a matrix that is shared has several."""
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return {several[0]: several for several in names.values()}


def select(model: nn.Module, patterns: Iterable[str], key: str) -> set[str]:
    """Names of the parameters that are meant.

    Args:
        model: The model.
        patterns: Each a part (`encoder`), or a pattern with * of a name or of its beginning up to a dot
            (`encoder.layers.0`, `*norm`, `decoder.layers.*.cross`). A shared matrix is meant by any of its names.
        key: The option that they come from.

    Raises:
        UserError: a pattern that matches nothing; the message names the nearest that would.
    """
    names, selected = all_names(model), set()
    for pattern in patterns:
        found = {first for first, several in names.items() if any(_meant(name, pattern) for name in several)}
        if not found:
            parameters = [name.split(".") for several in names.values() for name in several]
            known = {".".join(words[:length]) for words in parameters for length in range(1, len(words) + 1)}
            (close,) = get_close_matches(pattern, sorted({*known, *PARTS}), n=1, cutoff=0.0)
            raise UserError(f"{key}: '{pattern}' matches no parameter of the model; did you mean '{close}'?")
        selected |= found
    return selected


def _meant(name: str, pattern: str) -> bool:
    """Whether a pattern means a parameter of this name."""
    if pattern in PARTS:
        return part_of(name) == pattern
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
