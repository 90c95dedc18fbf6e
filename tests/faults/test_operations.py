"""Each file operation of the commands that write fails once: what was there stays whole, and the next try succeeds."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_corpus
from tests.faults.readers import SPEECH, TEXT, run
from tests.faults.scale import scaled
from tests.tones import write_tones

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")]

PREPROCESS = {
    "text": ("preprocess", "source=src", "target=tgt", "tokenizer=characters", "workers=1", "shard_pairs=25"),
    "speech": ("preprocess", "task=speech_to_text", "tokenizer=characters", "workers=1", "shard_pairs=5",
               "features.sample_rate=8000", "features.bins=20"),
}  # fmt: skip
SAVING = ["train.checkpoint_updates=1", "train.keep_last=2", "train.loggers=[]", "train.valid_updates=2"]


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    built = tmp_path_factory.mktemp("failing") / "failing.so"
    source = Path(__file__).with_name("failing.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"], check=True)
    return built


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> Path:
    """Two corpora of text and of speech each: a/train.src, b/train.tsv ..."""
    pytest.importorskip("soundfile")
    folder = tmp_path_factory.mktemp("corpora")
    for number, name in enumerate("ab"):
        (folder / name).mkdir()
        write_corpus(folder / name, {"train": 60, "valid": 8}, number)
        write_tones(folder / name, {"train": 8, "valid": 2}, number, most=3)
    return folder


def preprocess(kind: str, corpus: Path, store: str | Path) -> tuple[str, ...]:
    ending = {"text": "", "speech": ".tsv"}[kind]
    return (*PREPROCESS[kind], f"train={corpus}/train{ending}", f"valid={corpus}/valid{ending}", f"store={store}",
            "overwrite=true")  # fmt: skip


def all_fail(library: Path, work: Path, error: str, words: tuple[str, ...]) -> None:
    """Let the operations of a command fail, each or a share of them. WORK/before is what there is before it."""
    share = scaled(100) / 100
    command = [sys.executable, "-m", "tests.faults.operations", library, work, str(share), error, *words]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    *wrong, figures = done.stdout.splitlines() or [""]
    print(figures)
    assert done.returncode == 0, done.stderr
    assert not wrong, "\n".join(wrong)
    assert int(figures.split()[0]) > 0


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", ["text", "speech"])
def test_preprocessing(library, corpora, tmp_path, kind, error):
    assert run(preprocess(kind, corpora / "b", tmp_path / "before/store"))[0] == 0
    all_fail(library, tmp_path, error, preprocess(kind, corpora / "a", "{place}/store"))


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("kind", ["text", "speech"])
def test_saving(library, corpora, tmp_path, kind, error):
    assert run(preprocess(kind, corpora / "a", tmp_path / "store"))[0] == 0
    words = ("train", *{"text": TEXT, "speech": SPEECH}[kind], *SAVING, f"store={tmp_path}/store")
    assert run((*words, f"run={tmp_path}/before/run", "train.max_updates=2"))[0] == 0
    all_fail(library, tmp_path, error, (*words, "run={place}/run", "train.max_updates=4"))


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("command", ["average", "export"])
def test_averaging_and_exporting(library, corpora, tmp_path, command, error):
    pytest.importorskip("ctranslate2")
    assert run(preprocess("text", corpora / "a", tmp_path / "store"))[0] == 0
    words = ("train", *TEXT, *SAVING, f"store={tmp_path}/store", f"run={tmp_path}/run")
    assert run(words)[0] == 0
    last = ("last=2",) if command == "average" else ()
    words = (command, f"checkpoint={tmp_path}/run", "output={place}/made", "overwrite=true", *last)
    before = [word.replace("{place}", f"{tmp_path}/before") for word in words if not word.startswith("last")]
    assert run(tuple(before))[0] == 0
    all_fail(library, tmp_path, error, words)
