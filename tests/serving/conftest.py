"""A small run to be served; its model takes at most 11 tokens."""

import pytest

import s2s as package
from tests.conftest import _call
from tests.decoding.generating import SMALL


@pytest.fixture(scope="session")
def run(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:
        words = f"store={store}", f"run={folder}", "model.positions=learned", "model.max_positions=12"
        assert _call(monkeypatch, "s2s_cli.train", *words, *SMALL) == 0
    return folder


@pytest.fixture(scope="session")
def translator(run):
    return package.load(run, device="cpu")


@pytest.fixture(scope="session")
def lines(store):
    return (store.parent / "train.src").read_text().splitlines()[:40]
