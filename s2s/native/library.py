"""Compiles kernels.cpp for this machine when it is first needed, keeps the library for later runs, and calls it.

The library is in the user's cache folder ($S2S_CACHE, or else $XDG_CACHE_HOME/s2s, or else ~/.cache/s2s). Its name has
a hash of the source, the compiler and the processor. It is compiled into a temporary folder beside its place and then
renamed, so several processes may compile it at the same time.
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from torch import Tensor

from s2s.native.arguments import SOURCE, Kernel, Structure

COMPILERS = ("c++", "g++", "clang++")
# Neither -ffast-math nor -ffinite-math-only: the kernels rely on minus infinity and NaN.
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")


class Unavailable(Exception):
    """The kernels cannot be used, for the reason in the message."""


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL:
    """The compiled kernels as a loaded library. Raises Unavailable."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        raise Unavailable(f"no C++ compiler was found ({', '.join(COMPILERS)}, or the one that $CXX names)")
    try:
        version = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Unavailable(f"the C++ compiler {compiler} does not run: {error}") from error
    key = "\n".join([SOURCE.read_text(encoding="utf-8"), compiler, version, *FLAGS, _processor()])
    path = _folder() / f"kernels-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
    if not path.exists():
        _compile(compiler, path)
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise Unavailable(f"the compiled kernels cannot be loaded: {error}") from error


def _processor() -> str:
    """The processor's type and features. They are part of the key since several machines may share a home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine() + platform.processor()
    return platform.machine() + next((line for line in lines if line.lower().startswith(("flags", "features"))), "")


def _folder() -> Path:
    """The cache folder, created if needed. Raises Unavailable."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("S2S_CACHE") or Path(base) / "s2s")
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise Unavailable(f"the cache folder {folder} cannot be made: {error}") from error
    if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
        raise Unavailable(f"the cache folder {folder} belongs to another user, whose code is not run; set $S2S_CACHE")
    return folder


def _compile(compiler: str, path: Path) -> None:
    """Compile the library to `path`. Raises Unavailable."""
    print(f"compiling the decoder's kernels, once for this machine ({path})", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        command = [*compiler.split(), *FLAGS, str(SOURCE), "-o", str(partial)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise Unavailable(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")
        partial.replace(path)


@functools.cache
def kernel(name: str) -> Kernel:
    """The kernel of this name. Raises Unavailable."""
    return Kernel(library(), name)


def call(name: str, *arguments: Tensor | Structure | float | None) -> int:
    """Call a kernel as `Kernel` does."""
    return kernel(name)(*arguments)
