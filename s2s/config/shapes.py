"""Shapes declare what a document must contain; `conform` checks a document against its shape.

A shape is one of:

    str, int, float, bool, None     a value of that type; `int` has 64 bits, `float` is finite and takes whole numbers
    object                          anything
    [shape]                         a list
    {"key": shape, "more?": shape}  an object with these keys; `?` marks those that may be missing, `...: shape` allows
                                    others
    mapping(shape, keys)            an object with keys of the author's own
    (shape, shape)                  any of these
    one_of("a", "b")                one of these values
    whole(...), number(...)         a number within bounds
    text(pattern, "a SHA-256")      a string that a regular expression matches whole

An unquoted scalar of YAML has no type of its own: it is text where the shape wants text (`1.10`, `no`, `007`), a number
where it wants a number.
"""

import dataclasses
import json
import math
import re
from typing import Any

from s2s import registry
from s2s.errors import UserError

Shape = Any


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a document."""

    size: int = 32 << 20  # bytes
    depth: int = 32  # nesting of lists and objects
    values: int = 1 << 20
    text: int = 1 << 20  # characters of one string
    aliases: bool = False  # YAML only: anchors and aliases are read, and each alias counts as the values it stands for


LIMITS = Limits()
SHOWN = 40  # characters of a wrong value in a message


@dataclasses.dataclass(frozen=True)
class mapping:
    """An object with arbitrary keys."""

    values: Shape
    keys: Shape = str


@dataclasses.dataclass(frozen=True)
class whole:
    """A whole number within bounds."""

    at_least: int = -(1 << 63)
    at_most: int = (1 << 64) - 1


@dataclasses.dataclass(frozen=True)
class number:
    """A finite number within bounds."""

    at_least: float = -math.inf
    at_most: float = math.inf


@dataclasses.dataclass(frozen=True)
class text:
    """A string that a pattern matches in full; messages call it `meaning`."""

    pattern: str
    meaning: str


class one_of(tuple):
    """One of several values."""

    def __new__(cls, *values):
        return super().__new__(cls, values)


@dataclasses.dataclass
class Node:
    """A value of a YAML document, its type undecided: a string, a list or a dict of nodes."""

    value: Any
    line: int
    plain: bool = False  # an unquoted scalar, or an empty one


def conform(value: Any, shape: Shape, where: str, limits: Limits = LIMITS) -> Any:
    """Check a value against its shape, and resolve YAML nodes.

    Raises:
        UserError: `WHERE: KEY: EXPECTED is needed, not ACTUAL`.
    """
    return _conform(value, shape, where, "", limits.depth, limits)


def _conform(value: Any, shape: Shape, where: str, key: str, depth: int, limits: Limits) -> Any:
    file = where
    if isinstance(value, Node):
        where = f"{file}:{value.line}"
        value = _scalar(value, shape, where) if isinstance(value.value, str) else value.value
    place = f"{where}: {key}: " if key else f"{where}: "
    if not _is(value, shape):
        raise UserError(f"{place}{_name(shape)} is needed, not {_described(value)}")
    while _is_choice(shape):
        shape = next(choice for choice in shape if _is(value, choice))
    if isinstance(value, (list, dict)) and not depth:
        raise UserError(f"{where}: nested deeper than {limits.depth}")
    if isinstance(value, list):
        item_shape = shape[0] if isinstance(shape, list) else object
        return [_conform(item, item_shape, file, f"{key}[{n}]", depth - 1, limits) for n, item in enumerate(value)]
    if isinstance(value, dict):
        shapes = _shapes(value, shape, where, key, limits)
        return {
            name: _conform(item, shapes[name], file, _below(key, name), depth - 1, limits)
            for name, item in value.items()
        }
    if isinstance(value, str):
        _check_text(value, place, limits)
    return float(value) if shape is float or isinstance(shape, number) else value


def _shapes(value: dict, shape: Shape, where: str, key: str, limits: Limits) -> dict[str, Shape]:
    """The shape of each value of an object. Raises UserError: a key is missing or unknown."""
    place = f"{where}: {key}: " if key else f"{where}: "
    for name in value:
        _check_text(name, place, limits)
    if isinstance(shape, mapping):
        for name in value:
            _conform(name, shape.keys, where, f"{key}: the key {shown(name)}".lstrip(": "), 0, limits)
        return dict.fromkeys(value, shape.values)
    if not isinstance(shape, dict):
        return dict.fromkeys(value, object)
    declared = {name.removesuffix("?"): of for name, of in shape.items() if name is not ...}
    for name in shape:
        if name is not ... and not name.endswith("?") and name not in value:
            raise UserError(f"{where}: {_below(key, name)} is missing")
    for name in value:
        if name not in declared and ... not in shape:
            raise UserError(f"{where}: unknown key {shown(_below(key, name))}; {registry.nearest(name, [*declared])}")
    return {name: declared.get(name, shape.get(...)) for name in value}


def _check_text(value: str, place: str, limits: Limits) -> None:
    if len(value) > limits.text:
        raise UserError(f"{place}a text of more than {limits.text:,} characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UserError(f"{place}half of a surrogate pair is not a character") from None


def _is_choice(shape: Shape) -> bool:
    return isinstance(shape, tuple) and not isinstance(shape, one_of)


def _is(value: Any, shape: Shape) -> bool:
    """Whether a value has a shape, without looking at the values inside it."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    is_whole = is_number and isinstance(value, int) and whole.at_least <= value <= whole.at_most
    if shape is object:
        return True
    if shape is None:
        return value is None
    if shape is int:
        return is_whole
    if shape is float:
        return is_number and math.isfinite(value)
    if isinstance(shape, type):
        return isinstance(value, shape)
    if isinstance(shape, list):
        return isinstance(value, list)
    if isinstance(shape, (dict, mapping)):
        return isinstance(value, dict)
    if isinstance(shape, whole):
        return is_whole and shape.at_least <= value <= shape.at_most
    if isinstance(shape, number):
        return is_number and math.isfinite(value) and shape.at_least <= value <= shape.at_most
    if isinstance(shape, text):
        return isinstance(value, str) and re.fullmatch(shape.pattern, value) is not None
    if isinstance(shape, one_of):
        return any(value == choice and type(value) is type(choice) for choice in shape)
    return any(_is(value, choice) for choice in shape)


def _name(shape: Shape) -> str:
    """The name of a shape in messages."""
    names: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false", None: "null"}
    if isinstance(shape, one_of):
        return ("one of " if len(shape) > 1 else "") + ", ".join(map(str, shape))
    if isinstance(shape, tuple):
        return " or ".join(map(_name, shape))
    if isinstance(shape, (whole, number)):
        low, high = type(shape).at_least, type(shape).at_most
        bounds = [f"at least {shape.at_least:,}"] * (shape.at_least > low)
        bounds += [f"at most {shape.at_most:,}"] * (shape.at_most < high)
        kind = "a whole number" if isinstance(shape, whole) else "a number"
        return f"{kind} of {' and '.join(bounds)}" if bounds else kind
    if isinstance(shape, text):
        return shape.meaning
    if isinstance(shape, list):
        return "a list"
    return names[shape] if shape is None or isinstance(shape, type) else "an object of keys and values"


def _described(value: Any) -> str:
    """A wrong value in messages."""
    if isinstance(value, (list, dict)):
        return "a list" if isinstance(value, list) else "an object"
    return shown(value) if isinstance(value, str) else cut(json.dumps(value))


def shown(value: str) -> str:
    """Wrong text in a message: in quotes, and cut short."""
    return repr(cut(value))


def cut(value: str, most: int = SHOWN) -> str:
    """A text, cut to `most` characters."""
    return value if len(value) <= most else f"{value[:most]}..."


def _below(key: str, name: str) -> str:
    if re.fullmatch(r"[\w-]+", name):
        return f"{key}.{name}" if key else name
    return f"{key}[{shown(name)}]"


# --- scalars ---------------------------------------------------------------------------------------------------

WHOLE = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
REAL = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NULL = ("", "~", "null", "Null", "NULL")
BOOLEAN = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


def _scalar(node: Node, shape: Shape, where: str) -> Any:
    """A YAML scalar in the type that the shape wants, or else in its own type (text if it is quoted)."""
    shapes = shape if _is_choice(shape) else (shape,)
    wants_text = any(choice is str or isinstance(choice, text) for choice in shapes)
    wants_text |= any(isinstance(choice, one_of) and node.value in choice for choice in shapes)
    if not node.plain or (wants_text and not (None in shapes and node.value in NULL)):
        return node.value
    return plain_value(node.value, where)


def plain_value(value: str, where: str) -> Any:
    """The value of an unquoted scalar by default: null, true or false, a finite number, or text."""
    if value in NULL:
        return None
    if value in BOOLEAN:
        return BOOLEAN[value]
    try:
        if WHOLE.fullmatch(value):
            return integer(value.replace("_", "").lstrip("+"))
        if REAL.fullmatch(value) or value.lower().lstrip("+-") in (".inf", ".nan"):
            return real(value.replace("_", "").replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error
    return value


def integer(digits: str) -> int:
    """A whole number of at most 64 bits. Raises ValueError."""
    if len(digits) > 20 or not whole.at_least <= (value := int(digits)) <= whole.at_most:
        raise ValueError(f"{cut(digits)} has more than 64 bits")
    return value


def real(digits: str) -> float:
    """A finite number. Raises ValueError."""
    if not math.isfinite(value := float(digits.replace("Infinity", "inf"))):
        raise ValueError(f"{cut(digits)} is not a finite number")
    return value
