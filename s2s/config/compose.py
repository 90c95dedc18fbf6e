"""From `key=value` words and YAML files to one checked, typed config object.

Nothing is looked up in a value: `${...}` is text like any other.
"""

import dataclasses
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.resources import files
from typing import Any, NamedTuple

import yaml

from s2s import registry
from s2s.config import schema as schemas
from s2s.config.documents import YAML_LIMITS, yaml_nodes
from s2s.config.shapes import Node, plain_value
from s2s.config.values import of_word, typed
from s2s.errors import UserError

PRESETS = "s2s.config.conf"
LISTED = 3  # keys that a message lists


class Override(NamedTuple):
    """A key and its value: what was typed behind `key=`, or a node of a file."""

    key: str
    value: str | Node
    file: str = ""

    @property
    def where(self) -> str:
        """The beginning of a message."""
        return f"{self.file}:{self.value.line}: " if self.file else ""

    @property
    def text(self) -> str:
        """The value of a key that chooses a preset. Raises UserError for a list or an object."""
        return typed(of_word(self.value, str, self.key) if isinstance(self.value, str) else self.value, str, self.key,
                     self.file)  # fmt: skip


def compose(schema: type, overrides: list) -> Any:
    """Compose a command's config object from its schema, the chosen presets and the overrides.

    Args:
        schema: The command's root config dataclass.
        overrides: As `Override`, or a pair of strings; of several with one key the last counts.

    Returns:
        An instance of `schema`, checked.

    Raises:
        UserError: unknown key or preset (the nearest one is named), wrong type, value out of bounds.
    """
    groups = schemas.groups(schema)
    words = by_key(groups, [Override(*word) for word in overrides])
    words = {word.key: word for word in _of_task(groups, words)} | words
    config, known = with_presets(schema, words)
    for word in words.values():
        if word.key not in groups:
            _set(config, word, known, [*groups])
    schemas.check(config, places={key: word.where for key, word in words.items()})
    return config


def with_presets(schema: type, words: dict[str, Override]) -> tuple[Any, dict[str, schemas.Leaf]]:
    """A command's config with the presets that are chosen, and the keys that can be set in it. Raises UserError."""
    config, groups = schema(), schemas.groups(schema)
    for name, field in groups.items():
        word, default = words.get(name), field.metadata["preset"]
        chosen = default if word is None else word.text
        if chosen in (None, "null", ""):
            if default is not None:
                raise UserError(f"{word.where}{name}=null: a preset is needed, such as {default}")
            continue
        setattr(config, name, preset(field.metadata["group"], chosen, name, word.where if word else ""))
    return config, {leaf.key: leaf for leaf in schemas.leaves(config) if leaf.key not in groups}


def by_key(groups: dict, overrides: list[Override]) -> dict[str, Override]:
    """The last override of each key. A printed config names its components by `model.type`, which means the same as
    `model`."""
    picked = {word.key for word in overrides}
    types = {f"{name}.type": name for name in groups if name not in picked}
    return {types.get(word.key, word.key): word._replace(key=types.get(word.key, word.key)) for word in overrides}


def _of_task(groups: dict, words: dict[str, Override]) -> list[Override]:
    """The defaults that a chosen task has for other keys."""
    if "task" not in groups or "task" not in words or words["task"].text not in registry.names("task"):
        return []
    defaults = getattr(registry.find("task", words["task"].text), "DEFAULTS", {})
    return [Override(key, value) for key, value in defaults.items()]


def _set(config: Any, word: Override, known: dict[str, schemas.Leaf], groups: list[str]) -> None:
    """Put a value in its place. Raises UserError for an unknown key or a value of another type."""
    key = word.key
    if key not in known:
        if below := next((name for name in known if name.startswith(f"{key}.")), None):
            raise UserError(f"{word.where}{key} is a section: set one of its keys, such as {below}")
        raise UserError(f"{word.where}unknown key '{key}'; {nearest_key(key, [*known, *groups])}")
    annotation = known[key].annotation
    node = of_word(word.value, annotation, key) if isinstance(word.value, str) else word.value
    *path, name = key.split(".")
    for section in path:
        config = getattr(config, section)
    setattr(config, name, typed(node, annotation, key, word.file))


def nearest_key(key: str, known: list[str]) -> str:
    """A hint for an unknown key: those with the same last word, else the closest one."""
    same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if 0 < len(same) <= LISTED:
        return f"did you mean {' or '.join(map(repr, same))}?"
    hint = registry.nearest(key, known)
    return "--help lists all keys" if len(known) > LISTED and hint.startswith("choose") else hint


# --- presets -----------------------------------------------------------------------------------------------------


def preset(kind: str, name: str, key: str, where: str = "") -> Any:
    """The config object of a preset: a component's defaults, or those of a file in conf/, which names its `base`.

    Only the component that is chosen is imported. Raises UserError: no such preset; its message begins with `where`
    and `key`.
    """
    file = _preset_files(kind).get(name)
    values = yaml_nodes(file.read_bytes(), str(file)).value if file else {}
    component = values.pop("base").value if file else name
    if component not in registry.names(kind):
        hint = _option_called(kind, key, name) or registry.nearest(name, presets(kind))
        raise UserError(f"{where}{key}={name}: no such preset; {hint}")
    found = registry.find(kind, component)
    config = getattr(found, "Config", found)()
    known = {leaf.key: leaf for leaf in schemas.leaves(config)}
    for word in flat(values, str(file)):
        _set(config, word, known, [])
    return config


def _preset_files(kind: str) -> dict[str, Any]:
    folder = files(PRESETS).joinpath(kind)
    found = folder.iterdir() if folder.is_dir() else []
    return {path.name.removesuffix(".yaml"): path for path in found if path.name.endswith(".yaml")}


def presets(kind: str) -> list[str]:
    """Names that a group accepts."""
    return sorted({*registry.names(kind), *_preset_files(kind)})


def _option_called(kind: str, key: str, name: str) -> str:
    """A hint for a name that is no preset, but a choice of one: `tokenizer=bpe`."""
    for component in registry.names(kind):
        found = registry.find(kind, component)
        for leaf in schemas.leaves(getattr(found, "Config", found)()):
            if name in leaf.metadata.get("choices", ()):
                return f"write {key}={component} {key}.{leaf.key}={name}"
    return ""


# --- files -------------------------------------------------------------------------------------------------------


def read_config(path: str) -> list[Override]:
    """A YAML file of overrides: nested mappings and dotted keys mean the same. `-` is standard input.

    Raises:
        UserError: the file is missing, not YAML, or not a mapping.
    """
    if path == "-" and sys.stdin is None:
        raise UserError("--config -: standard input is closed")
    try:
        with nullcontext(sys.stdin.buffer) if path == "-" else open(path, "rb") as file:
            content = file.read(YAML_LIMITS.size + 1)
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else getattr(error, "strerror", None) or error
        raise UserError(f"--config {path}: {reason}") from error
    name = "standard input" if path == "-" else path
    top = yaml_nodes(content, name)
    if top.plain and top.value == "":
        return []
    if not isinstance(top.value, dict):
        raise UserError(f"{name}:{top.line}: a mapping of keys to values is needed")
    found: dict[str, Override] = {}
    for word in flat(top.value, name):
        if word.key in found:
            raise UserError(f"{word.where}the key {word.key} is there twice")
        found[word.key] = word
    return list(found.values())


def flat(mapping: dict[str, Node], file: str, prefix: str = "") -> Iterator[Override]:
    """Nested mappings as overrides with dotted keys."""
    for key, node in mapping.items():
        if isinstance(node.value, dict):
            yield from flat(node.value, file, f"{prefix}{key}.")
        else:
            yield Override(f"{prefix}{key}", node, file)


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as something else, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        is_text = plain_value(value, "") == value
    except UserError:
        is_text = False
    # What does not print, such as U+0085, which YAML reads as the end of a line, is escaped.
    style = '"' if not value.isprintable() else None if is_text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(config: Any) -> str:
    """A config object as YAML."""
    return yaml.dump(dataclasses.asdict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
