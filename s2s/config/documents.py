"""The only reader of JSON and YAML files. It checks a declared shape and limits, and its errors name file and line.

Sizes are checked before objects are built: the bytes of a file, and the depth, number of values and length of strings
of a document. Numbers are finite, keys are unique, and text is UTF-8 without halves of surrogate pairs. YAML tags are
refused, and so are anchors and aliases, unless the limits allow them. `s2s.config.shapes` defines shapes.
"""

import json
import math
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from s2s.config.shapes import LIMITS, Limits, Node, Shape, conform, integer, real, shown
from s2s.errors import UserError

YAML_LIMITS = Limits(size=1 << 20, values=1 << 16)  # PyYAML reads some 100 kB in a second


def read_json(path: str | Path, shape: Shape = object, remedy: str = "", limits: Limits = LIMITS,
              finite: bool = True, number: Callable[[str], Any] | None = None) -> Any:  # fmt: skip
    """The content of a JSON file.

    Args:
        path: The file.
        shape: What it must hold.
        remedy: What the user should do if it does not ("make the store again"); ends each message.
        limits: Its limits.
        finite: Refuse numbers that are not finite; otherwise they are read as null.
        number: Called with the characters of each number, instead of int or float.

    Raises:
        UserError: the file is missing, not JSON, or does not have the shape.
    """
    with _remedy(remedy):
        return _json(_content(path, limits), str(path), shape, limits, lines=True, finite=finite, number=number)


def parse_json(content: str | bytes, where: str, shape: Shape = object, remedy: str = "", limits: Limits = LIMITS,
               number: Callable[[str], Any] | None = None) -> Any:  # fmt: skip
    """Read JSON from text, as `read_json` does. Messages begin with `where` (`FILE:LINE`). `number` is called with the
    characters of each number, instead of int or float."""
    with _remedy(remedy):
        _check_size(len(content), where, limits)
        return _json(_decoded(content, where), where, shape, limits, number=number)


def read_json_lines(path: str | Path, shape: Shape = object, broken: Callable[[UserError], None] | None = None,
                    limits: Limits = LIMITS) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Iterate over a file of JSON lines, as (`FILE:LINE`, content); empty lines are skipped.

    Args:
        path: The file, of any size.
        shape: What each line must hold.
        broken: Called with the error of each broken line, which is then skipped; None: the first error is raised.
        limits: The limits of a line.

    Raises:
        UserError: the file is missing, or a line is broken and `broken` is None.
    """
    with _opened(path) as file:
        number = 0
        while line := file.readline(limits.size + 1):
            number += 1
            where = f"{path}:{number}"
            try:
                if line.strip():
                    yield where, parse_json(line.rstrip(b"\r\n"), where, shape, limits=limits)
            except UserError as error:
                if broken is None:
                    raise
                broken(error)
                while line and not line.endswith(b"\n"):  # skip the rest of a line that is too long
                    line = file.readline(limits.size)


def read_yaml(path: str | Path, shape: Shape = object, remedy: str = "", limits: Limits = YAML_LIMITS) -> Any:
    """Read a YAML file, as `read_json` does."""
    with _remedy(remedy):
        return parse_yaml(_content(path, limits), str(path), shape, limits=limits)


def parse_yaml(content: str | bytes, where: str, shape: Shape = object, remedy: str = "",
               limits: Limits = YAML_LIMITS) -> Any:  # fmt: skip
    """Read YAML from text, as `read_yaml` does; messages name the file `where`."""
    with _remedy(remedy):
        return conform(yaml_nodes(content, where, limits), shape, where, limits)


def yaml_nodes(content: str | bytes, where: str, limits: Limits = YAML_LIMITS) -> Node:
    """A YAML document before its scalars have types. Raises UserError, `FILE:LINE: ...`."""
    from s2s.config import yaml_events  # PyYAML, which JSON does not need

    _check_size(len(content), where, limits)
    return yaml_events.nodes(_decoded(content, where), where, limits)


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON according to RFC 8259: numbers that are not finite become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class _remedy:
    """Appends a remedy to the errors of its block."""

    def __init__(self, remedy: str):
        self.remedy = remedy

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, UserError) and self.remedy:
            raise UserError(f"{error}; {self.remedy}") from error


def _opened(path: str | Path):
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe might never end
            raise UserError(f"{path}: not a file")
        return path.open("rb")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:  # a ValueError: a name with a zero byte
        raise UserError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _content(path: str | Path, limits: Limits) -> str:
    with _opened(path) as file:
        try:
            content = file.read(limits.size + 1)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from error
    _check_size(len(content), str(path), limits)
    return _decoded(content, str(path))


def _check_size(size: int, where: str, limits: Limits) -> None:
    if size > limits.size:
        raise UserError(f"{where}: larger than {limits.size:,} bytes")


def _decoded(content: str | bytes, where: str) -> str:
    if isinstance(content, str):
        return content.removeprefix("\ufeff")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UserError(f"{where}: UTF-16; save it as UTF-8")
    if (place := content.find(b"\0")) >= 0:
        raise UserError(f"{where}: a zero byte at byte {place:,}; it is damaged, or not UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8, at byte {error.start:,}") from error


def _json(content: str, where: str, shape: Shape, limits: Limits, lines: bool = False, finite: bool = True,
          number: Callable[[str], Any] | None = None) -> Any:  # fmt: skip
    commas = max(content.count(","), content.count("[") + content.count("{"))  # counts those inside strings, too
    if commas > limits.values:
        raise UserError(f"{where}: more than {limits.values:,} values")
    try:
        value = json.loads(content, object_pairs_hook=_object, parse_int=number or integer, parse_float=number or real,
                           parse_constant=real if finite else lambda constant: None)  # fmt: skip
    except json.JSONDecodeError as error:
        where += f":{error.lineno}" * lines
        if not content.strip():
            raise UserError(f"{where}: empty") from error
        if error.pos >= len(content.rstrip()) or error.msg.startswith("Unterminated string"):
            raise UserError(f"{where}: not JSON: it ends too early") from error
        what = error.msg[:1].lower() + error.msg[1:]
        raise UserError(f"{where}: not JSON: {what} at column {error.colno}") from error
    except RecursionError:
        raise UserError(f"{where}: nested deeper than {limits.depth}") from None
    except ValueError as error:  # of the hooks
        raise UserError(f"{where}: {error}") from error
    return conform(value, shape, where, limits)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {shown(twice)} appears twice")
    return mapping
