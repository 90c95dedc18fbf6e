"""YAML to untyped nodes, event by event, so that depth and size are checked before objects are built."""

import re

import yaml

from s2s.config.shapes import Limits, Node
from s2s.errors import UserError

# PyYAML's messages for common mistakes, and ours; {0} is the pattern's group.
UNCLOSED = [  # reported at the line of the opening
    (r"expected ',' or '\]', but got .*", "the bracket [ is not closed"),
    (r"expected ',' or '\}', but got .*", "the brace {{ is not closed"),
    (r"found unexpected end of stream", "the quote is not closed"),
]
PROBLEMS = [
    (r"found character '\\t' that cannot start any token", "a tab; YAML requires spaces"),
    (r"found character (.*) that cannot start any token", "{0} cannot begin a value; quote it"),
    (r"mapping values are not allowed here", "a colon inside a value; quote the value, or indent the line as its key"),
    (r"could not find expected ':'", "no colon after the key"),
    (r"expected <block end>, but found .*", "the indentation does not match the lines before it"),
    (r"found unknown escape character '(.*)'", "\\{0} is not an escape sequence; use single quotes"),
    (r"expected the node content, but found .*", "a value is missing"),
    (r"expected '<document start>', but found .*", "unexpected content after the end of the document"),
]

MERGE = "<<"  # a key whose value is a mapping with further keys


def nodes(content: str, where: str, limits: Limits) -> Node:
    """The nodes of the single document of a text. Raises UserError, `FILE:LINE: ...`."""
    try:
        return _Builder(yaml.parse(content, Loader=yaml.SafeLoader), where, limits).document()
    except yaml.MarkedYAMLError as error:
        raise UserError(_message(error, where)) from error
    except yaml.reader.ReaderError as error:
        line = content.count("\n", 0, error.position) + 1
        raise UserError(
            f"{where}:{line}: the control character U+{error.character:04X} is not allowed in YAML"
        ) from error


def _message(error: yaml.MarkedYAMLError, where: str) -> str:
    """Our message for a mistake, with its line."""
    problem, mark = error.problem or error.context, error.problem_mark or error.context_mark
    for table, place in ((UNCLOSED, error.context_mark or mark), (PROBLEMS, mark)):
        for pattern, message in table:
            if match := re.fullmatch(pattern, problem):
                return f"{where}:{place.line + 1}: {message.format(*match.groups())}"
    return f"{where}:{mark.line + 1}: {problem}"


class _Builder:
    """Makes nodes from the events of PyYAML."""

    def __init__(self, events, where: str, limits: Limits):
        self.events, self.where, self.limits = events, where, limits
        self.count = 0
        self.anchors: dict[str, tuple[Node, int]] = {}  # a node, and its number of values

    def document(self) -> Node:
        node = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent) and node is not None:
                raise self.error(event, "a second document; only one is allowed")
            if isinstance(event, yaml.NodeEvent):
                node = self.node(event, 0)
        return node or Node("", 1, plain=True)

    def node(self, event: yaml.Event, depth: int) -> Node:
        before = self.count
        self.add(1)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event)
        if event.anchor is not None and not self.limits.aliases:
            raise self.error(event, "& begins an anchor; anchors are not allowed: write the value out, or quote it")
        if event.tag is not None:
            raise self.error(event, "! begins a tag; tags are not allowed: quote the value")
        node = self.content(event, depth)
        if event.anchor is not None:
            self.anchors[event.anchor] = node, self.count - before
        return node

    def add(self, count: int) -> None:
        """Count values. Raises UserError: there are too many."""
        self.count += count
        if self.count > self.limits.values:
            raise UserError(f"{self.where}: more than {self.limits.values:,} values")

    def alias(self, event: yaml.AliasEvent) -> Node:
        """The node that an alias names. Its values count again: a few aliases of aliases could stand for billions."""
        if not self.limits.aliases:
            raise self.error(event, "* begins an alias; aliases are not allowed: write the value out, or quote it")
        if event.anchor not in self.anchors:
            raise self.error(event, f"no value before this line has the anchor &{event.anchor}")
        node, count = self.anchors[event.anchor]
        self.add(count - 1)
        return node

    def content(self, event: yaml.Event, depth: int) -> Node:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.ScalarEvent):
            return Node(event.value, line, plain=event.style is None)
        if depth == self.limits.depth:
            raise self.error(event, f"nested deeper than {depth}")
        end = yaml.SequenceEndEvent if isinstance(event, yaml.SequenceStartEvent) else yaml.MappingEndEvent
        items: list[Node] = []
        while not isinstance(item := next(self.events), end):
            items.append(self.node(item, depth + 1))
        return Node(items if end is yaml.SequenceEndEvent else self.mapping(items), line)

    def mapping(self, items: list[Node]) -> dict[str, Node]:
        mapping: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key.value, str):
                raise UserError(f"{self.where}:{key.line}: a key must be text")
            if key.value == MERGE and key.plain and self.limits.aliases:
                merged = self.merged(value) | merged
                continue
            if key.value in mapping:
                raise UserError(f"{self.where}:{key.line}: the key {key.value} appears twice")
            mapping[key.value] = value
        return merged | mapping

    def merged(self, value: Node) -> dict[str, Node]:
        """The keys that `<<: *NAME` or `<<: [*NAME, ...]` adds; of two values the first counts."""
        together: dict[str, Node] = {}
        for each in value.value if isinstance(value.value, list) else [value]:
            if not isinstance(each.value, dict):
                raise UserError(f"{self.where}:{each.line}: {MERGE} needs a mapping, or a list of mappings")
            together = each.value | together
        return together

    def error(self, event: yaml.Event, what: str) -> UserError:
        return UserError(f"{self.where}:{event.start_mark.line + 1}: {what}")
