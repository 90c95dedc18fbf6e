"""A store and a run of s2s 0.1 are read, and give what they gave then."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from s2s.data.speech import Recordings
from s2s.data.store import Store, Stores, digest
from s2s.tasks.speech import SpeechToTextTask

OLD = Path(__file__).with_name("fixtures") / "format1"
EXPECTED = json.loads((OLD / "expected.json").read_text())


def test_a_run_decodes_an_old_store(s2s, tmp_path):
    output = tmp_path / "output.json"
    words = (f"checkpoint={OLD / 'run'}", f"store={OLD / 'store'}", "format=json", f"output={output}", "device=cpu")
    assert s2s("generate", *words) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["hypothesis"] for row in rows] == [text for text, _ in EXPECTED["hypotheses"]]
    assert [row["score"] for row in rows] == pytest.approx([score for _, score in EXPECTED["hypotheses"]], abs=1e-4)


def config_of(folder: Path) -> Path:
    """The old run's config with its criterion as it is written now."""
    lines = (OLD / "run" / "config.yaml").read_text().splitlines()
    start = lines.index("criterion:")
    end = next(number for number in range(start + 1, len(lines)) if not lines[number].startswith(" "))
    file = folder / "config.yaml"
    file.write_text("\n".join([*lines[:start], "criterion: auxiliary", *lines[end:]]))
    return file


def test_an_option_that_has_moved_is_named(s2s, tmp_path, capsys):
    assert s2s("train", "--config", str(OLD / "run" / "config.yaml"), f"run={tmp_path / 'run'}") == 2
    assert "config.yaml:38: criterion.label_smoothing is now criterion.cross_entropy.label_smoothing" in (
        capsys.readouterr().err
    )


def test_a_run_goes_on(s2s, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(OLD / "run", run, symlinks=True)
    config = {"store": OLD / "store", "run": run, "train.max_updates": 30}
    words = [f"{key}={value}" for key, value in config.items()]
    assert s2s("train", "--config", str(config_of(tmp_path)), *words) == 0
    said = capsys.readouterr().err
    assert "resuming" in said
    assert "note: criterion" not in said  # the terms are those that there were, under new names
    weights = load_file(run / "checkpoints" / "step_00000030" / "model.safetensors")
    norms = sorted(float(np.linalg.norm(tensor)) for tensor in weights.values())
    assert norms == pytest.approx(EXPECTED["norms_at_30"], rel=1e-3)


def test_a_checkpoint_starts_another_run(s2s, tmp_path, capsys):
    words = ["--config", str(config_of(tmp_path)), f"store={OLD / 'store'}", f"run={tmp_path / 'run'}"]
    assert s2s("train", *words, "train.max_updates=1", f"train.init.checkpoint={OLD / 'run'}") == 0
    assert "init: embeddings, encoder, decoder" in capsys.readouterr().err


# Stores of format 3, which did not declare their columns.

THREE = OLD.parent / "format3"
DIGESTS = {
    "text": "15fe3638fb77ee9db53a83b5d98d680ae5a65a1d3840e62793ba211174e4aa19",
    "features": "bb118824cd66a149e4f034ff9d4b29736540ff86419d44a7d095cad23941a2d2",
    "waveform": "c664c1ae4a52f7459a71d86bbd5bd69f07eafc31dc01e75f66d3cf818c9724a5",
}


@pytest.mark.parametrize("name", DIGESTS)
def test_a_store_of_format_3_is_read_and_has_the_digest_that_it_had(name):
    store = Store(THREE / name)
    assert (store.digest, digest(store.manifest)) == (DIGESTS[name], DIGESTS[name])
    store.verify(store.splits)


def test_its_text_is_what_it_was():
    store = Store(THREE / "text")
    train, test = store.split("train"), store.split("test")
    assert [train.row("source.tokens", i).tolist() for i in (0, 5, 11)] == [[4, 4], [4, 4, 5, 5], [6, 5, 6, 5, 5]]
    assert [train.row("target.tokens", i).tolist() for i in (0, 5, 11)] == [[4, 4], [5, 5, 4, 4], [5, 5, 6, 5, 6]]
    assert test.lines("source.text") == ["d e d", "", "c f"]
    assert list(train.columns) == ["source.tokens", "target.tokens"]
    assert train.longest("source.tokens") == 5


def test_its_recordings_are_what_they_were():
    store = Store(THREE / "features")
    task, split = SpeechToTextTask.setup(store), store.split("train")
    features, frames = Recordings(split, task.fbank).features(np.array([0, 3]))
    assert (frames.tolist(), float(features.sum())) == ([19, 34], pytest.approx(4070.35546875))
    assert split.known([1]) == [{"id": "train1", "speaker": "s1", "language": None, "seconds": 0.339}]
    assert split.lines("target.text") == ["b a b", "a a b", "a a b", "b a b"]
    store = Store(THREE / "waveform")
    features, frames = Recordings(store.split("valid"), task.fbank).features(np.array([1]))
    assert (frames.tolist(), float(features.sum())) == ([26], pytest.approx(1907.962890625))


def test_a_new_store_goes_with_one_of_format_3(tmp_path, s2s):
    for side in ("src", "tgt"):
        (tmp_path / f"more.{side}").write_text("a b\nc\n")
    words = ["source=src", "target=tgt", f"tokenizer_from={THREE}/text", f"train={tmp_path}/more", "workers=1"]
    assert s2s("preprocess", *words, f"store={tmp_path}/store") == 0
    assert len(Stores([THREE / "text", tmp_path / "store"]).split("train")) == 14


# A store of format 4 and a run whose checkpoints are of format 2, the terms of their loss by name.

TWO = OLD.parent / "format2"


def test_a_run_of_format_2_decodes_a_store_of_format_4(s2s, tmp_path):
    expected = json.loads((TWO / "expected.json").read_text())["hypotheses"]
    words = (f"checkpoint={TWO}/run", f"store={TWO}/store", "format=json", f"output={tmp_path}/output", "device=cpu")
    assert s2s("generate", *words) == 0
    rows = [json.loads(line) for line in (tmp_path / "output").read_text().splitlines()]
    assert [row["hypothesis"] for row in rows] == [text for text, _ in expected]
    assert [row["score"] for row in rows] == pytest.approx([score for _, score in expected], abs=1e-4)


def test_and_goes_on(s2s, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(TWO / "run", run, symlinks=True)
    words = ("--config", f"{run}/config.yaml", f"store={TWO}/store", f"run={run}", "train.max_updates=62")
    assert s2s("train", *words) == 0
    assert "resuming" in capsys.readouterr().err
    assert s2s("inspect", run) == 0
    assert s2s("inspect", TWO / "store") == 0
