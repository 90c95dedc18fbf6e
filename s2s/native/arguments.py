"""The one door for addresses: what the functions and structures of kernels.cpp take, as it is declared there.

Every array is held to the type, shape, layout and device of its declaration in every call; what a structure holds, such
as weights, when that is made. Sizes are read from the arrays, so that they cannot contradict them.
"""

import ctypes
import functools
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from types import CodeType
from typing import NamedTuple

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.cpp")
TYPES = {"float": torch.float32, "int8_t": torch.int8, "int32_t": torch.int32, "int64_t": torch.int64}
# Type, pointer, names (of an array at the end of a structure with []), and the comment.
DECLARATION = re.compile(r"(?:const )?(\w+)(\*?) (\w+(?:, \w+)*)(\[])?(?:[;,]|\) {|$)[ \t]*(?://([^\n]*))?")

Sizes = dict[str, int]  # by name, or by the expression of other sizes that they are


class Array(NamedTuple):
    """The address of an array."""

    name: str
    dtype: torch.dtype
    dims: tuple[str, ...]
    optional: bool
    text: str

    def word(self, value: Tensor | None, sizes: Sizes) -> int:
        """What is passed for a value; sizes that are not known yet become the value's. Raises ValueError."""
        if value is None and self.optional:
            return 0
        fits = isinstance(value, Tensor) and value.dtype is self.dtype and value.is_cpu and value.is_contiguous()
        if fits and _fit(self.dims, value.shape, sizes):
            return value.data_ptr()
        raise _refused(self, value, sizes)


class Pointer(NamedTuple):
    """The address of a structure, whose sizes are those of the same names here."""

    name: str
    kind: str
    text: str

    def word(self, value: "Structure", sizes: Sizes) -> int:
        """As Array.word."""
        if not isinstance(value, Structure) or value.kind != self.kind:
            raise _refused(self, value, sizes)
        if not sizes:
            sizes.update(value.sizes)
        elif not _fit(value.sizes, value.sizes.values(), sizes):
            raise _refused(self, value, sizes)
        return value.address


class Number(NamedTuple):
    """A number: a size, or an option."""

    name: str
    kind: str

    def word(self, value: float, sizes: Sizes) -> float:
        """As Array.word."""
        return value


class Part(NamedTuple):
    """A structure within another one, or (`several`) as many as its shape says."""

    name: str
    kind: str
    dims: tuple[str, ...]
    optional: bool
    text: str
    several: bool

    def words(self, value: "Structure | Sequence[Structure] | None", sizes: Sizes) -> list[int]:
        """As Array.word. A shape of one structure is that of its own numbers; without one, its sizes are those of the
        same names here."""
        if value is None and self.optional:
            return [0] * len(declared(self.kind))
        parts = list(value) if self.several else [value]
        if any(not isinstance(part, Structure) or part.kind != self.kind for part in parts):
            raise _refused(self, value, sizes)
        if self.dims and not self.several:
            fits = _fit(self.dims, parts[0].numbers, sizes)
        else:
            fits = all(_fit(part.sizes, part.sizes.values(), sizes) for part in parts)
        if not fits or (self.several and not _fit(self.dims, [len(parts)], sizes)):
            raise _refused(self, value, sizes)
        return [word for part in parts for word in part.contents]


class Structure:
    """A structure of kernels.cpp, which keeps what it points to. It never changes, so a copy of it is itself.

    Args:
        kind: Its name.
        values: Its parts by name, without those that are null; and sizes that its parts do not tell.

    Attributes:
        contents: Its words.
        address: Where they are.
        sizes: By name.

    Raises:
        ValueError: a part that is not as declared, or that is not there.
    """

    def __init__(self, kind: str, **values):
        # Detached: what a parameter points to may change.
        self.values = {k: v.detach() if isinstance(v, Tensor) else v for k, v in values.items()}
        self.kind, self.sizes = kind, {k: int(v) for k, v in values.items() if isinstance(v, int)}
        fields = declared(kind)
        if unknown := values.keys() - self.sizes.keys() - {field.name for field in fields}:
            raise ValueError(f"{kind} has no {', '.join(sorted(unknown))}")
        self.contents: list[int] = []
        for field in fields:
            value = (self.sizes if isinstance(field, Number) else self.values).get(field.name)
            if isinstance(field, Part):
                self.contents += field.words(value, self.sizes)
            else:
                self.contents.append(field.word(value, self.sizes))
        self._memory = (ctypes.c_int64 * len(self.contents))(*self.contents)
        self.address = ctypes.addressof(self._memory)

    def __deepcopy__(self, memo: dict) -> "Structure":
        return self

    def __reduce__(self):
        raise TypeError("addresses mean nothing to another process")

    @property
    def numbers(self) -> list[int]:
        """Those that it holds itself, in order."""
        return [self.sizes[field.name] for field in declared(self.kind) if isinstance(field, Number)]


class Kernel:
    """A function of the library.

    Args:
        library: Has it.
        name: Its name.
    """

    def __init__(self, library: ctypes.CDLL, name: str):
        fields = declared(name)
        told = {name for f in fields if isinstance(f, Array) for name in re.findall(r"\b[A-Za-z]\w*", f.text)}
        self.name = name
        self.constants: Sizes = {d: int(d) for f in fields if isinstance(f, Array) for d in f.dims if d.isdigit()}
        self.arguments = [f for f in fields if not isinstance(f, Number) or f.name not in told]
        self.sizes = [f.name for f in fields if isinstance(f, Number) and f.name in told]
        self.function = getattr(library, name)
        self.function.restype = ctypes.c_int64
        floats = [isinstance(f, Number) and f.kind == "double" for f in (*self.arguments, *self.sizes)]
        self.function.argtypes = [ctypes.c_double if is_float else ctypes.c_int64 for is_float in floats]

    def __call__(self, *values: Tensor | Structure | float | None) -> int:
        """Call it with all that it takes but the sizes, which come last in its declaration.

        Raises:
            ValueError: an argument that is not as declared.
            IndexError: an array holds a number that leads out of another one.
        """
        sizes = self.constants.copy()
        words = [argument.word(value, sizes) for argument, value in zip(self.arguments, values, strict=True)]
        result = self.function(*words, *[sizes[name] for name in self.sizes])
        if result < 0:
            raise IndexError(f"{self.name}: a position, a row or a token is out of range")
        return result


@functools.cache
def declared(name: str) -> list[Array | Part | Pointer | Number]:
    """What a function takes, or what a structure holds."""
    source = SOURCE.read_text(encoding="utf-8")
    pattern = rf"^int64_t {name}\((.*?\) {{[^\n]*)|^struct {name} {{\n(.*?)^}};"
    body = re.search(pattern, source, re.MULTILINE | re.DOTALL)
    fields: list = []
    for kind, pointer, names, several, comment in DECLARATION.findall(body[1] or body[2]):
        shape, optional = re.match(r"\s*\[(.*?)]", comment), "null" in comment
        dims = tuple(dim.strip() for dim in shape[1].split(",")) if shape else ()
        text = f"{kind}{shape[0].strip() if shape else ''}{' or null' if optional else ''}"
        for each in names.split(", "):
            if kind in ("int64_t", "double") and not pointer:
                fields.append(Number(each, kind))
            elif kind not in TYPES:
                fields.append(Pointer(each, kind, text) if pointer
                              else Part(each, kind, dims, optional, text, bool(several)))  # fmt: skip
            elif dims:
                fields.append(Array(each, TYPES[kind], dims, optional, text))
            else:
                raise ValueError(f"{SOURCE.name}: {name} does not say the shape of {each}")
    return fields


def _fit(dims: Collection[str], shape: Collection[int], sizes: Sizes) -> bool:
    """Whether a shape is as declared; sizes that are not known yet become its own."""
    if len(dims) != len(shape):
        return False
    for dim, size in zip(dims, shape):  # noqa: B905 - `strict` would take longer than the rest of it
        if dim in sizes:
            if sizes[dim] != size:
                return False
        elif dim.isidentifier():
            sizes[dim] = size
        elif (int(dim) if dim.isdigit() else eval(_code(dim), {}, sizes)) != size:
            return False
    return True


@functools.cache
def _code(dim: str) -> CodeType:
    """An expression of kernels.cpp, whose division is that of whole numbers."""
    return compile(dim.replace("/", "//"), SOURCE.name, "eval")


def _refused(field, value, sizes: Sizes) -> ValueError:
    known = ", ".join(f"{name}={size}" for name, size in sizes.items() if name.isidentifier())
    if isinstance(value, Tensor):
        value = f"{value.dtype}{list(value.shape)}, strides {value.stride()}, {value.device}"
    else:
        value = type(value).__name__
    return ValueError(f"kernels: {field.name} must be {field.text} ({known}), contiguous, on the CPU; it is {value}")
