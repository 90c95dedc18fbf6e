"""A stand-in for PyTorch while only names and options are needed, for `--help` and `--completion`.

Options are defined next to the classes that they configure. Most of these are modules of PyTorch, whose import takes
well over a second. With the stand-in these classes can be defined but not used: every name of `torch` is an empty
class. The process only prints.
"""

import importlib.abc
import importlib.machinery
import sys
from types import ModuleType
from typing import Any, ClassVar

PRINTING = ("--help", "-h", "--completion")  # arguments with which a command only prints


def prepare() -> None:
    """Install the stand-in if the command line says that this process only prints, unless PyTorch is loaded."""
    program = sys.argv[0].rpartition("/")[2]
    only_prints = any(word.partition("=")[0] in PRINTING for word in sys.argv[1:])
    if only_prints and (program == "-m" or program.startswith("s2s-")) and "torch" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Kind(type):
    """Classes that have every attribute, and whose expressions, such as `Tensor | None`, are classes again."""

    def __getattr__(cls, name: str) -> Any:
        return _named(name)

    def __getitem__(cls, key: Any) -> Any:
        return cls

    def __or__(cls, other: Any) -> Any:
        return cls

    __ror__ = __or__


class _Anything(metaclass=_Kind):
    def __init__(self, *_: Any, **__: Any):
        pass

    def __init_subclass__(cls, **_: Any):
        pass

    def __call__(self, *words: Any, **_: Any) -> Any:
        return words[0] if words and callable(words[0]) else self  # as a decorator it changes nothing

    def __getattr__(self, name: str) -> Any:
        return _named(name)()


class _Module(ModuleType):
    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> Any:
        return _named(name)


def _named(name: str) -> Any:
    if name.startswith("__"):  # Python looks for these to find out what an object can do
        raise AttributeError(name)
    return _Kind(name, (_Anything,), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `torch` and everything below it."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        is_torch = name.partition(".")[0] == "torch"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_torch else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass
