"""Conversion of values to the types of the schema. What a user types is text until an annotation gives it a type."""

import dataclasses
import math
import typing
from typing import Any, get_args, get_origin

from s2s import registry
from s2s.config.schema import without_none
from s2s.config.shapes import LIMITS, NULL, REAL, WHOLE, Node, cut, integer, real
from s2s.errors import UserError

BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
QUOTES = ("'", '"')


def typed(node: Node, annotation: Any, key: str, file: str = "") -> Any:
    """Convert a value to the type of an annotation.

    Args:
        node: The value.
        annotation: `str`, `int`, `float`, `bool`, a config dataclass, or a list of these; each may have `| None`.
        key: Its name in messages.
        file: The file from which it was read; messages begin with file and line.

    Raises:
        UserError: it has another type, is not finite, or has more than 64 bits.
    """
    where = f"{file}:{node.line}: {key}" if file else key
    bare, value = without_none(annotation), node.value
    if bare is not annotation and (value is None or (node.plain and value in NULL)):
        return None
    if get_origin(bare) is list:
        items = value if isinstance(value, list) else [] if node.plain and value in NULL else [node]
        return [typed(item, get_args(bare)[0], key, file) for item in items]
    if isinstance(bare, type) and dataclasses.is_dataclass(bare):
        return _object(node, bare, key, file, where)
    if isinstance(value, (list, dict)):
        what = "a list" if isinstance(value, list) else "an object"
        raise UserError(f"{where}: a single value is needed, not {what}")
    if file and node.plain and value == "":
        raise UserError(f"{where}: no value; '' is empty text")
    try:
        return _scalar(value, bare)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from error


def _scalar(value: Any, kind: type) -> Any:
    """Text, a number or a truth value. Raises ValueError."""
    text = value.strip() if isinstance(value, str) else ""
    shown_value = repr(cut(value)) if isinstance(value, str) else "null" if value is None else str(value).lower()
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is str and isinstance(value, str):
        return value
    if kind is bool and (isinstance(value, bool) or text.lower() in BOOLEANS):
        return value if isinstance(value, bool) else BOOLEANS[text.lower()]
    if kind is int and (WHOLE.fullmatch(text) or (is_number and isinstance(value, int))):
        return integer((text or str(value)).replace("_", "").lstrip("+"))
    if kind is float and (REAL.fullmatch(text) or (is_number and math.isfinite(value))):
        return real(text.replace("_", "")) if text else float(value)
    names = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    raise ValueError(f"{shown_value} is not {names[kind]}")


def _object(node: Node, kind: type, key: str, file: str, where: str) -> Any:
    if not isinstance(node.value, dict):
        raise UserError(f"{where}: an object, {{key:value}}, is needed")
    hints = typing.get_type_hints(kind)
    fields = [field.name for field in dataclasses.fields(kind)]
    values = {}
    for name, value in node.value.items():
        if name not in fields:
            place = f"{file}:{value.line}: {key}" if file else key
            raise UserError(f"{place}: unknown key '{name}'; {registry.nearest(name, fields)}")
        values[name] = typed(value, hints[name], f"{key}: {name}", file)
    return kind(**values)


def of_word(text: str, annotation: Any, key: str) -> Node:
    """The value after `key=` on the command line.

    For a key with a single value, it is the text as typed. For a list, it is one value, or several that are separated
    by commas, with or without brackets; each may be quoted.

    Raises:
        UserError: a bracket or a quote is not closed.
    """
    bare = without_none(annotation)
    if get_origin(bare) is not list or text in ("", "null"):
        return Node(text, 0, plain=text in ("", "null"))
    objects = dataclasses.is_dataclass(get_args(bare)[0])
    if text.lstrip().startswith("["):
        return _Words(text, key, objects).bracketed()
    if text.rstrip().endswith("]") and "[" not in text and not objects:
        raise UserError(f"{key}={cut(text)}: the bracket [ is missing at the beginning")
    if "," not in text and not objects:
        return Node([Node(text, 0)], 0)
    return Node([item for item, _ in _Words(text, key, objects).items("")], 0)


def choices(text: str, annotation: Any, key: str) -> list[str]:
    """The values of a sweep, which are separated by commas. For a list key, they are lists in brackets.

    Raises:
        UserError: a bracket or a quote is not closed.
    """
    is_list = get_origin(without_none(annotation)) is list
    if "," not in text or (is_list and not text.lstrip().startswith("[")):
        return [text]
    items = _Words(text, key, objects=is_list).items("")
    return [raw if is_list else str(item.value) for item, raw in items]


def quote(text: str) -> str:
    """Text as an item of a list of the command line."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


class _Words:
    """Lists and objects of the command line, read from left to right.

    Args:
        text: The text to read.
        key: Its name in messages.
        objects: Whether items may be lists and objects; otherwise brackets inside of items are plain characters.
    """

    def __init__(self, text: str, key: str, objects: bool):
        self.text, self.key, self.objects = text, key, objects
        self.place = self.depth = 0

    @property
    def next(self) -> str:
        return self.text[self.place : self.place + 1]

    def bracketed(self) -> Node:
        """A list in brackets, with nothing after it."""
        self._blanks()
        self.place += 1
        node = Node([item for item, _ in self.items("]")], 0)
        self._blanks()
        if self.next:
            raise self._error(f"'{cut(self.text[self.place :])}' comes after the end of the list; quote brackets")
        return node

    def items(self, end: str) -> list[tuple[Node, str]]:
        """Items, each with its text as typed, up to the character `end`, or to the end of the text if it is empty."""
        result: list[tuple[Node, str]] = []
        self._blanks()
        if end and self.next == end:
            self.place += 1
            return result
        while True:
            self._blanks()
            begin = self.place
            result.append((self._value(end), self.text[begin : self.place].strip()))
            if self._ended(end):
                return result

    def _value(self, end: str) -> Node:
        if self.objects and self.next in ("[", "{"):
            opening = self.next
            self.place += 1
            self.depth += 1
            if self.depth > LIMITS.depth:
                raise self._error(f"nested deeper than {LIMITS.depth}")
            value = [item for item, _ in self.items("]")] if opening == "[" else self._pairs()
            self.depth -= 1
            return Node(value, 0)
        if self.next in QUOTES:
            return Node(self._quoted(), 0)
        text = self._until(f",{end}")
        if not text:
            raise self._error("a value is missing between commas; '' is empty text")
        return Node(text, 0, plain=True)

    def _pairs(self) -> dict[str, Node]:
        pairs: dict[str, Node] = {}
        self._blanks()
        if self.next == "}":
            self.place += 1
            return pairs
        while True:
            name = self._until(":,}")
            if self.next != ":":
                raise self._error(f"'{cut(name)}' is not key:value")
            self.place += 1
            self._blanks()
            if name in pairs:
                raise self._error(f"the key {name} appears twice")
            pairs[name] = self._value("}")
            if self._ended("}"):
                return pairs

    def _ended(self, end: str) -> bool:
        """Skip a comma (returns False) or the character `end` (True). Raises UserError for anything else."""
        self._blanks()
        character = self.next
        self.place += 1
        if character == end:
            return True
        if character == ",":
            return False
        if not character:
            closing = {"]": "bracket ]", "}": "brace }"}[end]
            raise self._error(f"the {closing} is missing at the end")
        raise self._error(f"a comma is missing before '{cut(self.text[self.place - 1 :])}'")

    def _quoted(self) -> str:
        """Text in quotes, in which a backslash escapes quotes and itself."""
        quote, characters = self.next, []
        self.place += 1
        while self.next != quote:
            if self.next == "\\" and self.text[self.place + 1 : self.place + 2] in ("\\", *QUOTES):
                self.place += 1
            if not self.next:
                raise self._error(f"the quote {quote} is not closed")
            characters.append(self.next)
            self.place += 1
        self.place += 1
        return "".join(characters)

    def _until(self, ends: str) -> str:
        begin = self.place
        while self.next and self.next not in ends:
            self.place += 1
        return self.text[begin : self.place].strip()

    def _blanks(self) -> None:
        while self.next.isspace():
            self.place += 1

    def _error(self, what: str) -> UserError:
        return UserError(f"{self.key}={cut(self.text)}: {what}")
