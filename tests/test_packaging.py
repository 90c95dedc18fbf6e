"""What an installed s2s promises: commands that answer, ranges that hold, make targets that are listed."""

import configparser
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from s2s import __version__

ROOT = Path(__file__).parents[1]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
SCRIPTS = [line.split("=")[0].strip() for line in SETUP["options.entry_points"]["console_scripts"].split("\n") if line]


def requirements(text):
    return [Requirement(line) for line in text.split("\n") if line.strip() and not line.startswith("#")]


def output(*words):
    environment = {key: value for key, value in os.environ.items() if "MAKE" not in key}  # of a `make test` around us
    return subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout


@pytest.mark.parametrize("script", SCRIPTS)
def test_command_answers(script):
    path = str(Path(sys.executable).with_name(script))
    assert output(path, "--version") == f"{script} {__version__}\n"
    text = output(path, "--help", "all")
    assert text.startswith(f"usage: {script} ")
    keys = text.split("keys (key: type = default):")[1].split("\n")
    for line, below in pairwise(keys):
        if line.startswith("  ") and line[2] != " " and " = " in line:
            assert below.startswith("      "), f"{line.strip()} has no line of help"


def test_ranges_are_open_below_the_next_major_version():
    install = requirements(SETUP["options"]["install_requires"])
    extras = [one for text in SETUP["options.extras_require"].values() for one in requirements(text)]
    for requirement in install + extras:
        operators = {specifier.operator for specifier in requirement.specifier}
        assert ">=" in operators, f"{requirement}: no lower bound"
        assert operators <= {">=", "<"}, f"{requirement}: a pin, not a range"
    pythons = SpecifierSet(SETUP["options"]["python_requires"])
    assert [minor for minor in range(20) if f"3.{minor}.1" in pythons] == [10, 11, 12, 13]


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.13"])
def test_constraints_pin_every_direct_dependency_within_its_range(python):
    pins = {
        canonicalize_name(pin.name): str(pin.specifier).removeprefix("==")
        for pin in requirements((ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8"))
        if pin.marker is None or pin.marker.evaluate({"python_version": python})
    }
    texts = [SETUP["options"]["install_requires"], *SETUP["options.extras_require"].values()]
    wanted = [one for text in texts for one in requirements(text)]
    for requirement in wanted:
        assert pins[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert set(pins) == {canonicalize_name(requirement.name) for requirement in wanted}


def test_the_container_is_built_from_what_is_there_and_sent():
    """Docker itself is not needed: what the file copies exists, and .dockerignore lets it through."""
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [word for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")
              for word in line.split()[1:-1]]  # fmt: skip
    assert set(copied) == sent
    assert all((ROOT / path).exists() for path in copied)
    assert "\ntorch==" in (ROOT / ".ci" / "constraints.txt").read_text()


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = next(line for line in makefile.split("\n") if line.startswith(".PHONY:")).split()[1:]
    told = {line.split()[0] for line in output("make", "help").splitlines()}
    assert told == set(targets) == {"help", "quickstart", "test", "slow", "bench", "docs", "faults", "lint"}
    for target in targets:  # every recipe can be expanded
        output("make", "--dry-run", target)


def test_nothing_names_a_machine():
    for path in (ROOT / "Makefile", *(ROOT / ".ci").iterdir()):
        text = path.read_text(encoding="utf-8")
        for word in ("://", "index-url", "find-links", "/home/", "/root/", "/opt/"):
            assert word not in text, f"{path}: {word}"


def test_wheel_has_the_files_that_are_not_code(tmp_path):
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("s2s", "s2s_cli"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    wheel = build(tmp_path, "wheel")
    files = {path for path in zipfile.ZipFile(wheel).namelist() if path.startswith(("s2s/", "s2s_cli/"))}
    there = [path for name in ("s2s", "s2s_cli") for path in (ROOT / name).rglob("*") if path.is_file()]
    assert files == {str(path.relative_to(ROOT)) for path in there if "__pycache__" not in path.parts}
    assert {
        "s2s/py.typed",
        "s2s/native/kernels.cpp",
        "s2s/config/conf/model/transformer_base.yaml",
        "s2s/serving/page/index.html",
        "s2s/serving/page/page.js",
        "s2s/serving/page/page.css",
    } <= files


def build(folder, kind):
    """Build the distribution ("wheel" or "sdist") of the project in a folder, beside it."""
    code = f"from setuptools import build_meta; build_meta.build_{kind}('.')"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, capture_output=True)
    (path,) = folder.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.mark.slow
def test_distributions_are_whole_and_work_in_a_fresh_environment(tmp_path):
    """The wheel is built from the sdist, and runs in an environment that has no other s2s."""
    listed = output("git", "ls-files").splitlines()
    tracked = [name for name in listed if (ROOT / name).is_file() and not name.startswith("tests/")]
    for name in tracked:
        (tmp_path / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "project" / name)
    shutil.unpack_archive(build(tmp_path / "project", "sdist"), tmp_path)
    unpacked = tmp_path / f"s2s_toolkit-{__version__}"
    assert {name for name in tracked if not (unpacked / name).is_file()} <= {".gitignore", ".pre-commit-config.yaml"}

    wheel = build(unpacked, "wheel")
    assert wheel.name == f"s2s_toolkit-{__version__}-py3-none-any.whl"
    fresh = tmp_path / "fresh"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", fresh], check=True)
    python = fresh / "bin" / "python"
    (own,) = (fresh / "lib").glob("python*/site-packages")
    # The dependencies are those of this environment; a folder that a .pth file names has no .pth files of its own, so
    # an editable s2s is not seen.
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)

    code = (
        "import importlib.resources, s2s, s2s.errors\n"
        "for name in ('py.typed', 'native/kernels.cpp', 'config/conf/model/transformer_base.yaml'):\n"
        "    assert importlib.resources.files(s2s).joinpath(name).is_file(), name\n"
        "print(s2s.__file__, s2s.errors.install('serve'), sep='\\n')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*words):
        return subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert run(python, "-c", code).splitlines() == [f"{own}/s2s/__init__.py", "pip install 's2s-toolkit[serve]'"]
    for script in SCRIPTS:
        assert run(fresh / "bin" / script, "--version") == f"{script} {__version__}\n"
    assert run(fresh / "bin" / "s2s-score", "--help").startswith("usage: s2s-score ")
    assert "model.encoder.layers: int = 6" in run(fresh / "bin" / "s2s-train", "model=transformer_base", "--help")
