"""Checks the arguments of the kernels against their declarations in kernels.cpp, and passes their addresses.

Every call checks the type, shape, layout and device of each array. Shapes equal to those of the last call are not
checked again. What a structure holds, such as weights, is checked once, when the structure is made. Sizes are read from
the arrays, so they cannot contradict them. No other module passes addresses.
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
# Groups: type, pointer, names, [] (an array at the end of a structure), comment.
DECLARATION = re.compile(r"(?:const )?(\w+)(\*?) (\w+(?:, \w+)*)(\[])?(?:[;,]|\) {|$)[ \t]*(?://([^\n]*))?")

Sizes = dict[str, int]  # sizes by name


class Array(NamedTuple):
    """An argument that is the address of an array.

    Attributes:
        name: Name of the argument.
        dtype: Type of the elements.
        dims: Shape: names of sizes, or expressions of them.
        optional: Whether it may be null.
        text: Its declaration, for messages.
    """

    name: str
    dtype: torch.dtype
    dims: tuple[str, ...]
    optional: bool
    text: str

    def word(self, value: Tensor | None, sizes: Sizes) -> int:
        """The word to pass for a value. Sizes that are not known yet are taken from it. Raises ValueError if the value
        is not as declared."""
        if value is None and self.optional:
            return 0
        fits = isinstance(value, Tensor) and value.dtype is self.dtype and value.is_cpu and value.is_contiguous()
        if fits and _fit(self.dims, value.shape, sizes):
            return value.data_ptr()
        raise _refused(self, value, sizes)


class Pointer(NamedTuple):
    """An argument that is the address of a structure. Sizes of the same name must agree with the other arguments."""

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
    """An argument that is a number: a size or an option."""

    name: str
    kind: str

    def word(self, value: float, sizes: Sizes) -> float:
        """As Array.word."""
        return value


class Part(NamedTuple):
    """A structure within another one, or several of them (`several`): as many as `dims` says."""

    name: str
    kind: str
    dims: tuple[str, ...]
    optional: bool
    text: str
    several: bool

    def words(self, value: "Structure | Sequence[Structure] | None", sizes: Sizes) -> list[int]:
        """The words of the structures, as Array.word. With `dims`, a single structure's own numbers must be these;
        otherwise its sizes must agree with those of the same name here."""
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
    """A structure of kernels.cpp. It keeps alive what it points to. It never changes, so copying returns itself.

    Args:
        kind: Name of the structure in kernels.cpp.
        values: Parts by name, without those that are null; also sizes that cannot be read from the parts.

    Attributes:
        contents: The words of the structure.
        address: Address of the words.
        sizes: Sizes by name.
        shape: What a kernel compares with the last call: the kind and the sizes.

    Raises:
        ValueError: a part is not as declared, or is missing.
    """

    def __init__(self, kind: str, **values):
        # Detached, since a parameter may later point to other memory.
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
        self.shape = kind, self.sizes

    def __deepcopy__(self, memo: dict) -> "Structure":
        return self

    def __reduce__(self):
        raise TypeError("addresses mean nothing to another process")

    @property
    def numbers(self) -> list[int]:
        """The numbers that the structure itself holds, in order."""
        return [self.sizes[field.name] for field in declared(self.kind) if isinstance(field, Number)]


class Kernel:
    """A function of the library.

    Args:
        library: The compiled library.
        name: Name of the function.
    """

    def __init__(self, library: ctypes.CDLL, name: str):
        fields = declared(name)
        size_names = {name for f in fields if isinstance(f, Array) for name in re.findall(r"\b[A-Za-z]\w*", f.text)}
        self.name = name
        self.constants: Sizes = {d: int(d) for f in fields if isinstance(f, Array) for d in f.dims if d.isdigit()}
        self.arguments = [f for f in fields if not isinstance(f, Number) or f.name not in size_names]
        self.types = [getattr(field, "dtype", None) for field in self.arguments]
        self.sizes = [f.name for f in fields if isinstance(f, Number) and f.name in size_names]
        self.function = getattr(library, name)
        self.function.restype = ctypes.c_int64
        floats = [isinstance(f, Number) and f.kind == "double" for f in (*self.arguments, *self.sizes)]
        self.checked: tuple[list, list[int]] = [], []  # shapes of the last call, and its sizes
        self.function.argtypes = [ctypes.c_double if is_float else ctypes.c_int64 for is_float in floats]

    def __call__(self, *values: Tensor | Structure | float | None) -> int:
        """Call the function with all its arguments but the sizes, which come last in its declaration.

        Raises:
            ValueError: an argument is not as declared.
            IndexError: an array holds an index that is out of range.
        """
        shapes = [getattr(value, "shape", None) for value in values]
        known, sizes = self.checked
        if shapes != known:
            sizes = self.check(values)
            self.checked = shapes, sizes
        words: list[float] = []
        for dtype, value in zip(self.types, values):  # noqa: B905 - as many as in the last call
            if dtype is None:
                words.append(value.address if isinstance(value, Structure) else value)
            elif value is None:
                words.append(0)
            elif isinstance(value, Tensor) and value.dtype is dtype and value.is_cpu and value.is_contiguous():
                words.append(value.data_ptr())
            else:
                self.check(values)  # raises
        result = self.function(*words, *sizes)
        if result < 0:
            raise IndexError(f"{self.name}: a position, a row or a token is out of range")
        return result

    def check(self, values: tuple[Tensor | Structure | float | None, ...]) -> list[int]:
        """Check all arguments; returns the sizes, in the order of the declaration. Raises ValueError as a call does."""
        sizes = self.constants.copy()
        for argument, value in zip(self.arguments, values, strict=True):
            argument.word(value, sizes)
        return [sizes[name] for name in self.sizes]


@functools.cache
def declared(name: str) -> list[Array | Part | Pointer | Number]:
    """The arguments of a function or the fields of a structure, as declared in kernels.cpp."""
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
    """Whether a shape is as declared. Sizes that are not known yet are taken from it."""
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
    """Compile an expression of kernels.cpp, in which / divides whole numbers."""
    return compile(dim.replace("/", "//"), SOURCE.name, "eval")


def _refused(field, value, sizes: Sizes) -> ValueError:
    known = ", ".join(f"{name}={size}" for name, size in sizes.items() if name.isidentifier())
    if isinstance(value, Tensor):
        value = f"{value.dtype}{list(value.shape)}, strides {value.stride()}, {value.device}"
    else:
        value = type(value).__name__
    return ValueError(f"kernels: {field.name} must be {field.text} ({known}), contiguous, on the CPU; it is {value}")
