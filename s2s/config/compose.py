"""Composes one checked, typed config object from `key=value` arguments and YAML files.

There is no interpolation: `${...}` is plain text.
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from difflib import get_close_matches
from importlib.resources import files
from typing import Any, NamedTuple, cast

import yaml

from s2s import registry
from s2s.config import schema as schemas
from s2s.config.documents import YAML_LIMITS, yaml_nodes
from s2s.config.other_toolkits import instead
from s2s.config.shapes import Node, plain_value
from s2s.config.values import of_word, typed
from s2s.errors import UserError

PRESETS = "s2s.config.conf"
CLOSE = 0.8  # similarity of a key to an unknown one that is a slip of the pen
LISTED = 3  # most keys in a hint
ELSEWHERE = {  # first word of a key -> the command that has it, for a hint where another command gets it
    **dict.fromkeys(("tokenizer", "source_tokenizer", "target_tokenizer", "filter", "features"), "s2s-preprocess"),
    **dict.fromkeys(("model", "criterion", "optim", "data", "train"), "s2s-train"),
    "decode": "s2s-generate",
}


class Override(NamedTuple):
    """A key and its value: the text after `key=`, or a node of a file."""

    key: str
    value: str | Node
    file: str = ""

    @property
    def where(self) -> str:
        """The beginning of a message."""
        return f"{self.file}:{self.value.line}: " if isinstance(self.value, Node) and self.file else ""

    @property
    def text(self) -> str:
        """The value of a key that chooses a preset. Raises UserError for a list or an object."""
        return typed(of_word(self.value, str, self.key) if isinstance(self.value, str) else self.value, str, self.key,
                     self.file)  # fmt: skip


def compose(schema: type, overrides: list) -> Any:
    """Compose a command's config object from its schema, the chosen components and presets, and the overrides.

    Args:
        schema: The command's root config dataclass.
        overrides: `Override`s or pairs of strings; the last one of each key counts.

    Returns:
        An instance of `schema`, checked.

    Raises:
        UserError: unknown key or preset (the nearest one is named), wrong type, value out of bounds.
    """
    words = by_key([Override(*word) for word in overrides])
    words = by_key(_of_task(schemas.groups(schema), words)) | words
    built = build(schema, words)
    built.fill()
    schemas.check(built.config, places={key: word.where for key, word in words.items()})
    return built.config


def by_key(overrides: list[Override]) -> dict[str, Override]:
    """The last override of each key. `model.type`, with which a printed config names a component, means the same as
    `model`; if both are given, `model` counts."""
    last = {word.key: word for word in overrides}
    bare = {key: key.removesuffix(".type") for key in last}
    return {bare[key]: word._replace(key=bare[key]) for key, word in last.items()
            if bare[key] == key or bare[key] not in last}  # fmt: skip


class Built(NamedTuple):
    """A config object of the chosen components.

    Attributes:
        config: The config object, with the defaults of the components.
        words: The overrides to set in it, including those of presets.
        presets: The keys that are set by presets and not by the user.
        known: The keys that can be set.
        choices: The keys that choose components, with the type of their values.
    """

    config: Any
    words: dict[str, Override]
    presets: set[str]
    known: dict[str, schemas.Leaf]
    choices: dict[str, Any]

    def fill(self) -> None:
        """Set the values of all overrides. Raises UserError."""
        chosen = {key.rpartition(".")[0] for key in self.choices.keys() & (self.words.keys() - self.presets)}
        for key, word in self.words.items():
            if key in self.choices:
                continue
            if key not in self.known and f"{key}.type" in self.known:  # a plain option of that name
                word = word._replace(key=f"{key}.type")
            elif key not in self.known and key in self.presets and any(key.startswith(f"{at}.") for at in chosen):
                continue  # a preset's option of a component that the user has replaced
            _set(self.config, word, self.known, self.choices)


def build(schema: type, words: dict[str, Override]) -> Built:
    """Assemble the components that the overrides choose. Raises UserError."""
    builder = _Builder(dict(words))
    config = builder.of(schema, "")
    known = {leaf.key: leaf for leaf in schemas.leaves(config) if "group" not in leaf.metadata}
    return Built(config, builder.words, builder.words.keys() - words.keys(), known, builder.choices)


class _Builder:
    """Makes nested config objects, outer ones first.

    Args:
        words: The overrides; those of presets are added as presets are found.
    """

    def __init__(self, words: dict[str, Override]):
        self.words = words
        self.choices: dict[str, Any] = {}

    def of(self, schema: type, prefix: str) -> Any:
        """A config object of a schema whose keys begin with `prefix`."""
        options = {field.name for field in dataclasses.fields(schema)}
        self._refuse_moved(schema, prefix)
        parts = {
            field.name: self.of(cast(type, field.default_factory), f"{prefix}{field.name}.")
            for field in dataclasses.fields(schema) if dataclasses.is_dataclass(field.default_factory)
        }  # fmt: skip
        for name, field in schemas.groups(schema).items():
            several = schemas.is_list(field)
            parts[name] = self._several(field, prefix, name, options) if several else self._one(field, prefix, name)
        return schema(**parts)

    def _refuse_moved(self, schema: type, prefix: str) -> None:
        """Raise UserError for an option that has moved, according to the schema's MOVED; unless a component has its
        name, and the value is one for that component."""
        kinds = [field.metadata["group"] for field in schemas.groups(schema).values()]
        for name, now in getattr(schema, "MOVED", {}).items():
            word = self.words.get(f"{prefix}{name}")
            value = word and (word.value.value if isinstance(word.value, Node) else word.value)
            if word is not None and not any(value in presets(kind) for kind in kinds):
                raise UserError(f"{word.where}{word.key} is now {prefix}{now}")

    def _one(self, field: dataclasses.Field, prefix: str, name: str) -> Any:
        key, default = f"{prefix}{name}", field.metadata["preset"]
        self.choices[key] = str
        word = self.words.get(key)
        where = word.where if word else ""
        chosen = default if word is None else word.text
        if chosen in (None, "null", ""):
            if default is not None:
                raise UserError(f"{where}{key}=null: a preset is needed, such as {default}")
            return None
        return self._component(field.metadata["group"], chosen, key, f"{where}{key}=")

    def _several(self, field: dataclasses.Field, prefix: str, name: str, options: set[str]) -> dict[str, Any]:
        key, chosen, configs = f"{prefix}{name}", field.metadata["preset"], {}
        self.choices[key] = list[str]
        word = self.words.get(key)
        if word is not None:
            node = of_word(word.value, list[str], key) if isinstance(word.value, str) else word.value
            chosen = typed(node, list[str], key, word.file)
        for label in chosen:
            section = f"{prefix}{label}"
            self.choices[section] = str
            of_type = self.words.get(section)
            chooser = f"{of_type.where}{section}.type=" if of_type else f"{word.where if word else ''}{key}="
            if label in configs:
                raise UserError(f"{chooser}{label} is listed twice")
            if label in options:
                raise UserError(f"{word.where if word else ''}{key}={label} is also the name of an option here; "
                                f"choose another name, and set {prefix}NAME.type={label}")  # fmt: skip
            configs[label] = self._component(
                field.metadata["group"], of_type.text if of_type else label, section, chooser
            )
        return configs

    def _component(self, kind: str, name: str, key: str, chooser: str) -> Any:
        """The config of a component or preset, with its own components; messages begin with `chooser`."""
        component, given = _preset(kind, name, chooser)
        below = by_key([word._replace(key=f"{key}.{word.key}") for word in given])
        # If the user replaces a component of the preset, the preset's options of that component do not apply.
        replaced = tuple(f"{inner}." for inner in below.keys() & self.words if not self._same(below, inner))
        self.words = {inner: word for inner, word in below.items() if not inner.startswith(replaced)} | self.words
        cls = registry.find(kind, component)
        return self.of(getattr(cls, "Config", cls), f"{key}.")

    def _same(self, below: dict[str, Override], key: str) -> bool:
        """Whether an override of a preset sets the value that the user has set."""
        values = (
            word.value.value if isinstance(word.value, Node) else word.value for word in (below[key], self.words[key])
        )
        return len(set(map(str, values))) == 1


def _of_task(groups: dict, words: dict[str, Override]) -> list[Override]:
    """The defaults of the chosen task for other keys."""
    word = words.get("task")
    if "task" not in groups or word is None or word.text not in registry.names("task"):
        return []
    defaults = getattr(registry.find("task", word.text), "DEFAULTS", {})
    return [Override(key, value) for key, value in defaults.items()]


def _set(config: Any, word: Override, known: dict[str, schemas.Leaf], choices: Iterable[str]) -> None:
    """Set a value. Raises UserError for an unknown key or a value of the wrong type."""
    key = word.key
    if key not in known:
        if below := next((name for name in known if name.startswith(f"{key}.")), None):
            raise UserError(f"{word.where}{key} is a section: set one of its keys, such as {below}")
        first = key.partition(".")[0]
        if first in ELSEWHERE and first not in {name.partition(".")[0] for name in known}:
            raise UserError(f"{word.where}unknown key '{key}'; it belongs to {ELSEWHERE[first]}")
        raise UserError(f"{word.where}unknown key '{key}'; {nearest_key(key, [*known, *choices])}")
    annotation = known[key].annotation
    node = of_word(word.value, annotation, key) if isinstance(word.value, str) else word.value
    *path, name = key.split(".")
    for section in path:
        config = schemas.section(config, section)
    setattr(config, name if hasattr(config, name) else f"{name}_", typed(node, annotation, key, word.file))


def nearest_key(key: str, known: list[str]) -> str:
    """A hint for an unknown key: the keys with the same last part, the key for another toolkit's option, or else the
    closest key."""
    same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if 0 < len(same) <= LISTED:
        return f"did you mean {' or '.join(map(repr, same))}?"
    there = instead(key, known)
    if not there and (close := get_close_matches(key, known, 1, CLOSE)):
        return f"did you mean '{close[0]}'?"
    if there := there or instead(key.rpartition(".")[2], known):
        return f"write {there[0]}" + "=VALUE" * ("=" not in there[0])
    hint = registry.nearest(key, known)
    return "--help all lists all keys" if len(known) > LISTED and hint.startswith("choose") else hint


# --- presets -----------------------------------------------------------------------------------------------------


def preset(kind: str, name: str) -> Any:
    """The config object of a component with its defaults, or with those of a preset. Raises UserError."""
    component, given = _preset(kind, name, "")
    cls = registry.find(kind, component)
    built = build(getattr(cls, "Config", cls), by_key(given))
    built.fill()
    return built.config


def _preset(kind: str, name: str, chooser: str) -> tuple[str, list[Override]]:
    """The component of a name, and the overrides of a preset (a file in conf/ that names its component as `base`).

    Raises UserError: no such preset; the message begins with `chooser`.
    """
    file = _preset_files(kind).get(name)
    values = yaml_nodes(file.read_bytes(), str(file)).value if file else {}
    component = values.pop("base").value if file else name
    if component not in registry.names(kind):
        key = chooser.rpartition(": ")[2].rstrip("=")
        hint = _option_called(kind, key, name) or registry.nearest(name, presets(kind))
        raise UserError(f"{chooser}{name}: no such preset; {hint}")
    return component, list(flat(values, str(file)))


def preset_folders() -> list[Any]:
    """Folders with a folder of presets for each kind: the toolkit's own and those of plug-ins (`s2s.presets`)."""
    return [files(package) for package in (PRESETS, *registry.preset_packages())] + registry.folders("conf")


def _preset_files(kind: str) -> dict[str, Any]:
    """The preset files of a kind, by name. If two have the same name, the first counts."""
    folders = [folder.joinpath(kind) for folder in reversed(preset_folders())]
    files = [path for folder in folders if folder.is_dir() for path in folder.iterdir()]
    return {path.name.removesuffix(".yaml"): path for path in files if path.name.endswith(".yaml")}


def presets(kind: str) -> list[str]:
    """Names that a group accepts."""
    return sorted({*registry.names(kind), *_preset_files(kind)})


def _option_called(kind: str, key: str, name: str) -> str:
    """A hint for a name that is not a preset but a choice of a component's option: `tokenizer=bpe`."""
    for component in registry.names(kind):
        cls = registry.find(kind, component)
        for leaf in schemas.leaves(getattr(cls, "Config", cls)()):
            if name in leaf.metadata.get("choices", ()):
                return f"write {key}={component} {key}.{leaf.key}={name}"
    return ""


# --- files -------------------------------------------------------------------------------------------------------


def read_config(path: str) -> list[Override]:
    """Read overrides from a YAML file, with nested mappings or dotted keys. `-` is standard input.

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
    overrides: dict[str, Override] = {}
    for word in flat(top.value, name):
        if word.key in overrides:
            raise UserError(f"{word.where}the key {word.key} appears twice")
        overrides[word.key] = word
    return list(overrides.values())


def flat(mapping: dict[str, Node], file: str, prefix: str = "") -> Iterator[Override]:
    """Nested mappings as overrides with dotted keys."""
    for key, node in mapping.items():
        if isinstance(node.value, dict):
            yield from flat(node.value, file, f"{prefix}{key}.")
        else:
            yield Override(f"{prefix}{key}", node, file)


class _Dumper(yaml.SafeDumper):
    """Quotes text that would be read as another type, and writes no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    try:
        is_text = plain_value(value, "") == value
    except UserError:
        is_text = False
    # Unprintable characters are escaped, such as U+0085, which YAML takes for the end of a line.
    style = '"' if not value.isprintable() else None if is_text else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(config: Any) -> str:
    """A config object, or its plain values, as YAML."""
    plain = config if isinstance(config, dict) else schemas.values(config)
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
