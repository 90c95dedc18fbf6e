"""The kernels' tests once more, with kernels that AddressSanitizer and UBSan watch."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from s2s.native.library import COMPILERS

pytestmark = pytest.mark.slow

FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
TESTS = ["tests/native/test_arguments.py", "tests/backends/test_native.py", "tests/decoding/test_slots.py"]
BAD = {  # each ends the process
    "AddressSanitizer: heap-buffer-overflow": "int f(long n) { float* x = new float[n]; return x[n + 1] > 0; }",
    "signed integer overflow": "int f(long n) { int x = (int)n; return x + 2147483640; }",
}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    """That of a process whose kernels are watched."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, COMPILERS), None)
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("sanitizers")
    (folder / "empty.cpp").write_text("int main() { return 0; }")
    build = [*compiler.split(), *FLAGS.split(), folder / "empty.cpp", "-o", folder / "empty"]
    if subprocess.run(build, capture_output=True).returncode:
        pytest.skip(f"{compiler} has no sanitizers")

    def found(name: str) -> str:
        told = [*compiler.split(), f"-print-file-name={name}"]
        return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()

    libraries = [found("libasan.so"), found("libstdc++.so")]  # of Clang the first one has another name
    if not all(map(os.path.isabs, libraries)):
        pytest.skip(f"{compiler} has no libasan.so, which Python must load first")
    return {**os.environ, "CXX": f"{compiler} {FLAGS}", "S2S_CACHE": str(folder), "LD_PRELOAD": " ".join(libraries),
            "ASAN_OPTIONS": "detect_leaks=0", "OMP_NUM_THREADS": "2"}  # fmt: skip


@pytest.mark.parametrize("told", BAD)
def test_the_sanitizers_are_at_work(environment, tmp_path, told):
    (tmp_path / "bad.cpp").write_text(f'extern "C" {BAD[told]}')
    build = [*environment["CXX"].split(), "-shared", "-fPIC", tmp_path / "bad.cpp", "-o", tmp_path / "bad.so"]
    subprocess.run(build, check=True, env={**environment, "LD_PRELOAD": ""})
    code = f"import ctypes; ctypes.CDLL('{tmp_path / 'bad.so'}').f(ctypes.c_long(10)); print('unseen')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode != 0
    assert told in done.stderr
    assert "unseen" not in done.stdout


def test_the_kernels_stay_in_their_arrays(environment):
    """Whatever a test of theirs gives them: right arguments, wrong ones, slots that grow and shrink."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        *TESTS,
        "-k",
        "not compiled_once",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment,
                          cwd=Path(__file__).parents[2])  # fmt: skip
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    assert list(Path(environment["S2S_CACHE"]).glob("kernels-*.so"))  # they were those
