"""The typed schema: config dataclasses whose fields have one line of help, choices and bounds.

A config dataclass is defined next to the class that it configures. Its fields are made with `option`. A component that
contains another one has a field made with `group` (`model=transformer_base`, `model.frontend=gbst
model.frontend.block=4`), and one that contains several has a field made with `components` (`criterion.terms=[ctc,mine]
criterion.mine.weight=0.3`).
"""

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from s2s import registry
from s2s.config import shapes
from s2s.errors import UserError

LARGEST_SEED = (1 << 63) - 1  # that numpy, torch and JSON all accept
MOST = 10**12  # bound of numbers that declare none


def option(default: Any, help: str, choices: tuple = (), at_least: float | None = None, below: float | None = None,
           at_most: float | None = None, needs: str | tuple[str, ...] = (), reads: str = ""):  # fmt: skip
    """A field of a config dataclass.

    Args:
        default: The value when the user says nothing. A mutable default (list) is copied.
        help: One line for `--help`.
        choices: The allowed values (for a list, of each element); empty: any.
        at_least: Smallest allowed number.
        below: The number must be less than this.
        at_most: Largest allowed number.
        needs: Options without which this one does nothing; setting it is an error unless one of them is met. `noise`
            is met if the option `noise` is not at its default, `batching=packed` if it has this value (or one of
            several, separated by `|`). Names are looked up in the same section, then in the whole schema.
        reads: The kind of sources for which it is, `lines` or `recordings`, as `reads` of tasks; empty: any.
    """
    needs = (needs,) if isinstance(needs, str) else needs
    metadata = {"help": help, "choices": choices, "at_least": at_least, "below": below, "at_most": at_most,
                "needs": needs, "reads": reads}  # fmt: skip
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    if isinstance(default, type):  # a nested config dataclass
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def group(kind: str, preset: str | None, help: str):
    """A field with the config of one component of a kind. Its value on the command line is the name of a component or
    of a preset. `preset` is the default; None: the field is empty (null)."""
    return dataclasses.field(
        default_factory=lambda: _default(kind, preset), metadata={"help": help, "group": kind, "preset": preset}
    )


def components(kind: str, presets: list[str], help: str):
    """A field with the configs of several components of a kind, by name. Its value on the command line is the list of
    their names. The options of each component are a section NAME, next to the field. `NAME.type` chooses the component
    if NAME is not the name of a component itself."""
    return dataclasses.field(
        default_factory=lambda: {name: _default(kind, name) for name in presets},
        metadata={"help": help, "group": kind, "preset": presets},
    )


def _default(kind: str, preset: str | None) -> Any:
    from s2s.config.compose import preset as default  # compose imports this module

    return preset and default(kind, preset)


def groups(schema: type) -> dict[str, dataclasses.Field]:
    """The fields of a config dataclass that hold components, by name."""
    return {field.name: field for field in dataclasses.fields(schema) if "group" in field.metadata}


def is_list(field: dataclasses.Field) -> bool:
    """Whether a field contains several components."""
    return isinstance(field.metadata["preset"], list)


def section(config: Any, name: str) -> Any:
    """A section of a config object: a field, or one of the components in a field."""
    for field in groups(type(config)).values():
        if is_list(field) and name in getattr(config, field.name):
            return getattr(config, field.name)[name]
    return getattr(config, name)


def values(config: Any) -> dict[str, Any]:
    """A config object as nested plain values, as they are written to files."""
    plain: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "group" in field.metadata and is_list(field):
            plain[field.name] = list(value)
            plain |= {name: values(component) for name, component in value.items()}
        elif dataclasses.is_dataclass(value):
            plain[field.name] = values(value)
        elif isinstance(value, list):
            plain[field.name] = [values(item) if dataclasses.is_dataclass(item) else item for item in value]
        else:
            plain[field.name] = value
    return plain


@dataclasses.dataclass
class Leaf:
    """One key of a flattened schema.

    Attributes:
        key: Dotted name.
        annotation: Type of the value.
        default: The value, perhaps from a preset.
        metadata: Help, choices and bounds, from `option`.
        plain: The default of the schema.
    """

    key: str
    annotation: Any
    default: Any
    metadata: Any
    plain: Any

    @property
    def is_list(self) -> bool:
        return get_origin(without_none(self.annotation)) is list

    @property
    def is_text(self) -> bool:
        return without_none(self.annotation) is str

    @property
    def type_name(self) -> str:
        if choices := self.metadata.get("choices"):
            name = "{" + ",".join(map(str, choices)) + "}"
            return f"list of {name}" if self.is_list else name
        bare = without_none(self.annotation)
        if self.is_list:
            return f"list of {get_args(bare)[0].__name__}"
        return getattr(bare, "__name__", str(bare)) + ("?" if bare is not self.annotation else "")


def held(config: Any, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, str | None]]:
    """The keys that choose components of a config object, at any depth: (key, field, name of the chosen component)."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "group" not in field.metadata:
            parts = {field.name: value}
        elif is_list(field):
            yield prefix + field.name, field, "[" + ",".join(value) + "]"
            parts = value
        else:
            yield prefix + field.name, field, getattr(value, "type", None)
            parts = {field.name: value}
        for name, part in parts.items():
            if dataclasses.is_dataclass(part):
                yield from held(part, f"{prefix}{name}.")


def without_none(annotation: Any) -> Any:
    """`X` for `X | None`, anything else as it is."""
    if get_origin(annotation) in (typing.Union, types.UnionType):
        rest = [a for a in get_args(annotation) if a is not type(None)]
        return rest[0] if len(rest) == 1 else annotation
    return annotation


def leaves(config: Any, prefix: str = "") -> Iterator[Leaf]:
    """All keys of a config object (a dataclass instance), nested ones dotted, in the order of their definition. A field
    `from_` has the key `from`, which is no name in Python."""
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if "group" in field.metadata and is_list(field):
            plain = field.metadata["preset"]
            yield Leaf(prefix + field.name, list[str], list(value), field.metadata, plain)
            for name, part in value.items():
                yield from leaves(part, f"{prefix}{name}.")
        elif dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{field.name}.")
        elif "group" in field.metadata:
            yield Leaf(prefix + field.name, hints[field.name], value, field.metadata, value)
        else:
            # Not `is MISSING`: in a schema that was pickled, as for a launcher of sweeps, it is another object.
            plain = field.default_factory() if callable(field.default_factory) else field.default
            yield Leaf(prefix + field.name.removesuffix("_"), hints[field.name], value, field.metadata, plain)


def check(config: Any, prefix: str = "", places: Mapping[str, str] = types.MappingProxyType({})) -> None:
    """Check choices, bounds and needs of a whole config object.

    Args:
        config: What is checked.
        prefix: What its keys begin with.
        places: Where keys were read (`FILE:LINE: `), by key.

    Raises:
        UserError: names the key, its value, and the allowed values or the needs.
    """
    known = {leaf.key: leaf for leaf in leaves(config, prefix)}
    for leaf in known.values():
        place = places.get(leaf.key, "")
        for number, value in enumerate(leaf.default if isinstance(leaf.default, list) else [leaf.default]):
            if value is None:
                continue
            if dataclasses.is_dataclass(value):
                try:
                    check(value, f"{leaf.key}[{number}].")
                except UserError as error:
                    raise UserError(f"{place}{error}") from error
            elif wrong := _wrong(value, leaf.metadata):
                raise UserError(f"{place}{leaf.key}={value}: {wrong}")
    for leaf in known.values():
        needs = [_beside(leaf.key, need, known) for need in leaf.metadata.get("needs", ())]
        if needs and leaf.default != leaf.plain and not any(_met(need, known) for need in needs):
            place = places.get(leaf.key, "")
            raise UserError(f"{place}{leaf.key}={leaf.default}: does nothing without {' or '.join(needs)}")


def _wrong(value: Any, metadata: Mapping[str, Any]) -> str:
    """The message for a value outside its choices or bounds; otherwise an empty string."""
    choices, low, high, most = (metadata.get(name) for name in ("choices", "at_least", "below", "at_most"))
    if isinstance(value, (int, float)):
        low, most = -MOST if low is None else low, MOST if most is None else most
    if choices and value not in choices:
        same = [each for each in choices if str(each).casefold() == str(value).casefold()]
        return f"did you mean '{same[0]}'?" if same else f"choose one of {', '.join(map(str, choices))}"
    if low is not None and not value >= low:
        return f"must be at least {_number(low)}"
    if high is not None and not value < high:
        return f"must be below {high}"
    if most is not None and not value <= most:
        return f"must be at most {_number(most)}"
    return ""


def _number(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else str(bound)


def _beside(key: str, need: str, known: dict[str, Leaf]) -> str:
    """The full name of an option that `key` needs."""
    sibling = f"{key.rpartition('.')[0]}.{need}".lstrip(".")
    return sibling if sibling.partition("=")[0] in known else need


def _met(need: str, known: dict[str, Leaf]) -> bool:
    """Whether a need is met."""
    name, _, values = need.partition("=")
    if name not in known:
        return False
    leaf = known[name]
    return str(leaf.default) in values.split("|") if values else leaf.default != leaf.plain


# --- from files ---------------------------------------------------------------------------------------------------


def shape(config: type) -> dict[str, Any]:
    """The shape (`s2s.config.shapes`) of a dataclass's values in a file, without components. Missing values have their
    defaults."""
    hints = typing.get_type_hints(config)
    plain = [field for field in dataclasses.fields(config) if "group" not in field.metadata]
    return {f"{field.name}?": _shape(hints[field.name], field.metadata.get("choices")) for field in plain}


def _shape(annotation: Any, choices: tuple | None) -> Any:
    bare = without_none(annotation)
    if bare is not annotation:
        return _shape(bare, choices), None
    if get_origin(bare) is list:
        return [_shape(get_args(bare)[0], choices)]
    if choices:
        return shapes.one_of(*choices)
    if isinstance(bare, type) and dataclasses.is_dataclass(bare):
        return shape(bare)
    return shapes.mapping(object) if bare is dict else object if bare is Any else bare


def load(config: type, values: Any, where: str) -> Any:
    """A config object from its values in a file.

    Raises:
        UserError: unknown keys, wrong types, values out of bounds; `where` names the file.
    """
    values = shapes.conform(values, shapes.mapping(object), where)
    nested_components: dict[str, Any] = {}
    for name, field in groups(config).items():
        if name in values:
            nested_components[name] = _held(field, name, values, where)
    hints = typing.get_type_hints(config)
    for name in [name for name in values if _holds(hints.get(name))]:
        nested_components[name] = load(hints[name], values.pop(name), f"{where}: {name}")
    values = shapes.conform(values, shape(config), where) | nested_components
    nested = {key: without_none(hints[key]) for key, value in values.items() if isinstance(value, dict)}
    values |= {key: load(kind, values[key], where) for key, kind in nested.items()
               if isinstance(kind, type) and dataclasses.is_dataclass(kind)}  # fmt: skip
    result = config(**values)
    try:
        check(result)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return result


def _holds(annotation: Any) -> bool:
    """Whether a section holds components."""
    return isinstance(annotation, type) and dataclasses.is_dataclass(annotation) and bool(groups(annotation))


def _held(field: dataclasses.Field, name: str, values: dict[str, Any], where: str) -> Any:
    """The config of the components in a field; their values are removed from `values`."""
    kind, value = field.metadata["group"], values.pop(name)
    if not is_list(field):
        preset = field.metadata["preset"]
        return None if value is None and preset is None else _component(kind, value, preset or name, f"{where}: {name}")
    labels = shapes.conform(value, [str], f"{where}: {name}")
    return {label: _component(kind, values.pop(label, {}), label, f"{where}: {label}") for label in labels}


def _component(kind: str, value: Any, default: str, where: str) -> Any:
    """The config of a component; `default`: its name if the file does not give it."""
    if isinstance(value, str):  # only its name, without options
        value = {"type": value}
    section = shapes.conform(value, {"type?": str, ...: object}, where)
    try:
        cls = registry.find(kind, section.get("type", default))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return load(getattr(cls, "Config", cls), section, where)
