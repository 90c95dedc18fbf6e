"""Fixtures shared by all tests: small made-up corpora, and the commands called in this process."""

import contextlib
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings


def pytest_configure():
    # Two threads a test process only make small models slower.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # How long an example takes says how busy the machine is.
    settings.register_profile("default", deadline=None)
    settings.load_profile("default")


def _call(monkeypatch, module: str, *words: str) -> int:
    """Run a command's main() with these words; returns its exit code."""
    import importlib

    name = module.rsplit(".", 1)[1]
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", [f"s2s-{name}", *map(str, words)])
        try:
            importlib.import_module(module).main()
        except SystemExit as end:
            return end.code or 0
    return 0


@pytest.fixture
def s2s(monkeypatch):
    """s2s("train", "store=...", ...) runs a command in this process and returns its exit code."""
    return lambda command, *words: _call(monkeypatch, f"s2s_cli.{command}", *words)


@pytest.fixture
def standard_input():
    """standard_input(b"...") is what this process, and a command called in it, reads from its standard input."""
    kept = os.dup(0)

    def give(data: bytes) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.seek(0)
            os.dup2(file.fileno(), 0)

    yield give
    os.dup2(kept, 0)
    os.close(kept)


@pytest.fixture
def pipe(tmp_path):
    """pipe(text or bytes) is a named pipe into which somebody writes that, once."""
    names = map("pipe-{}".format, itertools.count())

    def make(content: str | bytes) -> Path:
        path, content = tmp_path / next(names), content.encode() if isinstance(content, str) else content
        os.mkfifo(path)

        def write() -> None:
            with contextlib.suppress(BrokenPipeError):
                path.write_bytes(content)

        threading.Thread(target=write, daemon=True).start()
        return path

    return make


@pytest.fixture
def spawn():
    """spawn("train", "store=...", ...) starts a command in a process of its own; returns the Popen."""
    running = []

    def start(command: str, *words: str, **options) -> subprocess.Popen:
        environment = {**os.environ, **options.pop("env", {})}
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", f"s2s_cli.{command}", *map(str, words)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **options,
            )
        )  # fmt: skip
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


def write_corpus(folder: Path, pairs: dict[str, int], seed: int = 0, reverse: bool = True) -> None:
    """Made-up parallel text: words of letters, and the same words in reverse order; NAME.src and NAME.tgt."""
    rng = random.Random(seed)
    for name, count in pairs.items():
        sources = [" ".join(rng.choice("abcdefghij") for _ in range(rng.randint(1, 8))) for _ in range(count)]
        targets = [" ".join(reversed(line.split())) if reverse else line for line in sources]
        (folder / f"{name}.src").write_text("".join(f"{line}\n" for line in sources))
        (folder / f"{name}.tgt").write_text("".join(f"{line}\n" for line in targets))


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> Path:
    """A store of 400 + 20 + 10 made-up pairs, made by s2s-preprocess."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, {"train": 400, "valid": 20, "test": 10})
    with pytest.MonkeyPatch.context() as monkeypatch:
        code = _call(monkeypatch, "s2s_cli.preprocess", "source=src", "target=tgt", f"train={folder}/train",
                     f"valid={folder}/valid", f"test={folder}/test", "tokenizer=words", f"store={folder}/store",
                     "workers=1")  # fmt: skip
    assert code == 0
    return folder / "store"
