"""Compiles and loads stand_in.cpp when it is imported, which must be before torch: torch looks for such things once."""

import ctypes
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path


def _load() -> ctypes.CDLL:
    """Compile and load it; returns the library."""
    torch_folder = Path(importlib.util.find_spec("torch").origin).parent
    libraries, source = torch_folder / "lib", Path(__file__).with_name("stand_in.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "stand_in.so"
        subprocess.run(["c++", "-std=c++20", "-shared", "-fPIC", source, "-o", library, f"-I{torch_folder / 'include'}",
                        f"-L{libraries}", f"-Wl,-rpath,{libraries}", "-lc10", "-ltorch_cpu"], check=True)  # fmt: skip
        return ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)


if "torch" in sys.modules:
    raise ImportError("tests.gpu.loading must be imported before torch")
LIBRARY = _load()
