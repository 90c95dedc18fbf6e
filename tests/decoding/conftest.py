"""Fixtures of tests of s2s-generate by its command line."""

import pytest

from tests.conftest import _call
from tests.decoding.generating import SMALL


@pytest.fixture(scope="session")
def runs(store, tmp_path_factory):
    """Two barely trained runs on the store."""
    folders = []
    for seed in (1, 2):
        folders.append(tmp_path_factory.mktemp("runs") / f"run{seed}")
        with pytest.MonkeyPatch.context() as monkeypatch:
            assert (
                _call(monkeypatch, "s2s_cli.train", f"store={store}", f"run={folders[-1]}", f"seed={seed}", *SMALL) == 0
            )
    return folders


@pytest.fixture
def generate(s2s, capsys, standard_input):
    """generate(words, stdin=bytes) -> exit code, standard output, standard error."""

    def call(*words, stdin: bytes = b""):
        standard_input(stdin)
        code = s2s("generate", *words, "device=cpu")
        return code, *capsys.readouterr()

    return call


@pytest.fixture(scope="session")
def lines(store):
    return (store.parent / "test.src").read_text().splitlines()
