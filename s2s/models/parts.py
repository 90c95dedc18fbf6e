"""Which parameters of a model are meant: parts that every encoder-decoder has, and patterns of names."""

from collections.abc import Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from s2s.errors import UserError

# Part -> beginnings of its parameters' names, up to a dot.
PARTS = {
    "embeddings": ("encoder_embedding", "decoder_embedding", "output", "ctc", "conditioning"),
    "encoder": ("encoder", "encoder_norm", "subsampling"),
    "decoder": ("decoder", "decoder_norm", "head_norms"),
}


def part_of(name: str) -> str | None:
    """The part that a parameter belongs to, by its name."""
    return next((part for part, beginnings in PARTS.items() if name.split(".")[0] in beginnings), None)


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
        patterns: Each a part (`encoder`), or a pattern with * of a name or of its beginning up to a dot (`encoder.0`,
            `*norm`, `decoder.*.cross`). A shared matrix is meant by any of its names.
        key: The option that they come from.

    Raises:
        UserError: a pattern that matches nothing; the message names the nearest that would.
    """
    names, selected = all_names(model), set()
    for pattern in patterns:
        globs = [form for glob in PARTS.get(pattern, (pattern,)) for form in (glob, f"{glob}.*")]
        found = {
            first
            for first, several in names.items()
            if any(fnmatchcase(name, glob) for name in several for glob in globs)
        }
        if not found:
            parameters = [name.split(".") for several in names.values() for name in several]
            known = {".".join(words[:length]) for words in parameters for length in range(1, len(words) + 1)}
            (close,) = get_close_matches(pattern, sorted(known), n=1, cutoff=0.0)
            raise UserError(f"{key}: '{pattern}' matches no parameter of the model; did you mean '{close}'?")
        selected |= found
    return selected
