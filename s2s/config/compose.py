"""From `key=value` words and YAML files to one checked, typed config object. Hydra composes, OmegaConf types."""

import dataclasses
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from s2s import registry
from s2s.config import schema as schemas
from s2s.errors import UserError

PRESETS = "s2s.config.conf"
ROOT = "s2s"
LISTED = 3  # keys that a message lists

Override = tuple[str, str]


def compose(schema: type, overrides: list[Override]) -> Any:
    """Compose a command's config object from its schema, the chosen presets and the overrides.

    Args:
        schema: The command's root config dataclass.
        overrides: (key, value in hydra's override syntax); of several with one key the last counts.

    Returns:
        An instance of `schema`, checked.

    Raises:
        UserError: unknown key or preset (the nearest one is named), wrong type, value out of bounds.
    """
    words = prepare(schema, overrides)
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module(PRESETS, version_base=None):
            node = hydra_compose(ROOT, overrides=words)
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_one_line(error)) from error
    return to_object(node)


def to_object(node: DictConfig) -> Any:
    """A composed node as its dataclass, checked. Raises UserError."""
    try:
        config = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error)) from error
    schemas.check(config)
    return config


def prepare(schema: type, overrides: list[Override], sweep: bool = False) -> list[str]:
    """Register the schema and the chosen presets with hydra; returns the overrides as hydra's words.

    Only the components that are chosen are imported. With `sweep`, values separated by commas are tried in turn.
    Raises UserError for unknown keys and presets.
    """
    groups = schemas.groups(schema)
    # A printed config names its components by `model.type`, which means the same as `model`.
    picked = {key for key, _ in overrides}
    types = {f"{name}.type": name for name in groups if name not in picked}
    overrides = list({types.get(key, key): (types.get(key, key), value) for key, value in overrides}.values())
    overrides = [*_of_task(groups, dict(overrides)), *overrides]
    chosen = {name: field.metadata["preset"] for name, field in groups.items()}
    chosen |= {key: value for key, value in overrides if key in groups}
    store = ConfigStore.instance()
    for name in set(store.repo) - {"hydra", "_dummy_empty_config_.yaml"}:
        del store.repo[name]  # of another command composed in this process: hydra's store is global
    example = schema()
    for name, presets in chosen.items():
        kind = groups[name].metadata["group"]
        if presets in (None, "null"):
            if groups[name].metadata["preset"] is not None:
                raise UserError(f"{name}=null: a preset is needed, such as {groups[name].metadata['preset']}")
            chosen[name] = None
            continue
        for preset in presets.split(","):  # several in a multirun
            setattr(example, name, register_preset(kind, preset.strip(), into=name)())
    store.store(name=f"{ROOT}_schema", node=schema)
    defaults = [f"{ROOT}_schema", *({name: groups[name].metadata["preset"]} for name in groups), "_self_"]
    store.store(name=ROOT, node={"defaults": defaults})
    known = {leaf.key: leaf for leaf in schemas.leaves(example)}
    for name in groups:
        known.pop(name, None)
    return [_word(key, value, known, groups, sweep) for key, value in overrides]


def _of_task(groups: dict, overrides: dict[str, str]) -> list[Override]:
    """The defaults that a chosen task has for other keys, where nothing else is said."""
    task = overrides.get("task")
    if "task" not in groups or task not in registry.names("task"):
        return []
    defaults = getattr(registry.find("task", task), "DEFAULTS", {})
    return [(key, value) for key, value in defaults.items() if key not in overrides]


def register_preset(kind: str, preset: str, into: str) -> type:
    """Make a preset (a file in conf/, or a component's own defaults) known to hydra in group `into`.

    Returns:
        The config dataclass of the preset's component.
    """
    store = ConfigStore.instance()
    file = files(PRESETS).joinpath(kind, f"{preset}.yaml")
    name = OmegaConf.load(str(file)).defaults[0] if file.is_file() else preset
    if name not in registry.names(kind):
        known = [*registry.names(kind), *(path.name[:-5] for path in _preset_files(kind))]
        raise UserError(f"{into}={preset}: no such preset; {registry.nearest(preset, known)}")
    component = registry.find(kind, name)
    config = getattr(component, "Config", component)
    store.store(group=into, name=name, node=config)
    return config


def _preset_files(kind: str) -> list:
    folder = files(PRESETS).joinpath(kind)
    return [path for path in folder.iterdir() if path.name.endswith(".yaml")] if folder.is_dir() else []


def presets(kind: str) -> list[str]:
    """Names that a group accepts."""
    return sorted({*registry.names(kind), *(path.name[:-5] for path in _preset_files(kind))})


def _word(key: str, value: str, known: dict[str, schemas.Leaf], groups: dict, sweep: bool) -> str:
    """One override in hydra's syntax, lists wrapped and awkward text quoted, or UserError for an unknown key."""
    if key in groups:
        return f"{key}={value}"
    if key not in known:
        if any(name.startswith(f"{key}.") for name in known):
            raise UserError(f"{key} is a section: set one of its keys, such as {_first_below(key, known)}")
        raise UserError(f"unknown key '{key}'; {_nearest_key(key, [*known, *groups])}")
    if known[key].is_list and not value.startswith(("[", "$")) and value != "null":
        value = f"[{value}]"
    word = f"{key}={value}"
    try:
        parsed = OverridesParser.create().parse_override(word)
        if parsed.is_sweep_override() and known[key].is_text and not sweep:
            return f"{key}={quote(value)}"
    except HydraException:
        if known[key].is_text:
            return f"{key}={quote(value)}"
        if known[key].is_list and value.startswith("["):
            return f"{key}=[{','.join(quote(part.strip()) for part in value[1:-1].split(','))}]"
        raise UserError(f"{key}={value}: cannot be read as {known[key].type_name}") from None
    return word


def _nearest_key(key: str, known: list[str]) -> str:
    """A hint for an unknown key: those with the same last word, else the closest one."""
    same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
    if 0 < len(same) <= LISTED:
        return f"did you mean {' or '.join(map(repr, same))}?"
    hint = registry.nearest(key, known)
    return "--help lists all keys" if len(known) > LISTED and hint.startswith("choose") else hint


def _first_below(key: str, known: dict) -> str:
    return next(name for name in known if name.startswith(f"{key}."))


def quote(value: Any) -> str:
    """A value in hydra's override syntax."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(quote, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{quote(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str):
        # Hydra reads a backslash as an escape only in front of a quote.
        return "'" + re.sub(r"(\\*)'", r"\1\1\\'", value) + "'" if not value.startswith("${") else value
    return str(value)


def read_yaml(path: str) -> list[Override]:
    """A YAML file of overrides: nested mappings and dotted keys mean the same.

    Raises:
        UserError: the file is missing, not YAML, or not a mapping.
    """
    if not Path(path).is_file():
        raise UserError(f"--config {path}: no such file")
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # any YAML error
        raise UserError(f"--config {path}: not readable as YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"--config {path}: a mapping of keys to values is needed")

    def flatten(mapping: dict, prefix: str):
        for key, value in mapping.items():
            if isinstance(value, dict):
                yield from flatten(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}", value

    pairs = list(flatten(content, ""))
    return [(key, str(v) if isinstance(v, str) and re.fullmatch(r"[\w./-]+", v) else quote(v)) for key, v in pairs]


def load(config_class: type, mapping: dict, where: str) -> Any:
    """A config object of a known class from saved values (`config.yaml` of a run).

    Raises:
        UserError: a key or a value that this version's schema does not have; `where` names the file.
    """
    try:
        node = OmegaConf.merge(OmegaConf.structured(config_class), mapping)
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise UserError(f"{where}: {_one_line(error)}") from error


def to_yaml(config: Any) -> str:
    """A config object as YAML, all values resolved."""
    return OmegaConf.to_yaml(OmegaConf.create(dataclasses.asdict(config)))


def _one_line(error: BaseException) -> str:
    """The most telling line of a hydra or OmegaConf error, with the key it is about."""
    cause = error.__cause__ or error
    text = str(cause).strip().split("\n")
    key = next((line.split(":", 1)[1].strip() for line in text if line.strip().startswith("full_key:")), "")
    first = text[0].strip()
    if isinstance(cause, ConfigKeyError) and dataclasses.is_dataclass(cause.object_type):
        names = [field.name for field in dataclasses.fields(cause.object_type)]
        first, key = f"unknown key '{cause.full_key}'; {registry.nearest(str(cause.key), names)}", ""
    kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
    if wrong := re.match(r"Value (.*) of type .* could not be converted to (\w+)", first):
        first = f"{wrong[1]} is not {kinds.get(wrong[2], wrong[2])}"
    first = f"{key}: {first}" if key and key not in first else first
    # An error inside of a list's entry does not say which list it is.
    override = re.search(r"override '?([\w.]+)", str(error))
    return f"{override[1]}: {first}" if override and override[1] not in first else first
