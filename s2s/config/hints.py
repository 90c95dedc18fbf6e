"""Hints for what people type who know other toolkits or write a list with spaces: the key to write instead."""

import os

from s2s.config import compose
from s2s.config.other_toolkits import instead


def for_flag(flag: str, following: str, schema: type) -> str:
    """A hint for a flag that is none: `--beam 4` is `decode.beam_size=4` here.

    Args:
        flag: The flag as typed, perhaps with `=VALUE`.
        following: The next argument.
        schema: The command's root config dataclass.
    """
    name, _, value = flag.lstrip("-").partition("=")
    known = _known(schema)
    name = name.replace("-", "_")
    for key in instead(name, known) or [key for key in known if name in (key, key.rpartition(".")[2])]:
        if "=" in key:
            return f"write {key}"
        value = value or ("" if following.startswith("-") or "=" in following else following) or "VALUE"
        return f"write {key}={value}"
    return compose.nearest_key(name, known)


def for_word(word: str, before: str, after: list[str], name: str, schema: type) -> str:
    """The message for an argument without `=`, where only `key=value` is expected.

    Args:
        word: The argument.
        before: The argument before it.
        after: The arguments after it.
        name: The command's name.
        schema: The command's root config dataclass.
    """
    _, given, value = before.partition("=")
    if given and value.count("[") > value.count("]"):
        return f"'{before} {word}': a list is one argument: write it without spaces, or quote it: \"{before} {word}\""
    known = _known(schema)
    if word in known:
        typed = next((item.lstrip("=") for item in after[:2] if item.lstrip("=") and "=" not in item[1:]), "VALUE")
        return f"'{word}' is not key=value; write {word}={typed}, without spaces"
    first = getattr(schema, "COMMON", None) or [*known][:1]
    if os.path.exists(word):
        return f"'{word}' is not key=value; write for example {first[0]}={word}"
    return f"'{word}' is not key=value; try {name} --help"


def _known(schema: type) -> list[str]:
    """The keys of a command with its default components."""
    empty = compose.build(schema, {})
    return [*empty.known, *empty.choices]
