"""Checkpoints: what is damaged is named, what a run deletes meanwhile is read anew, what is an input is no output."""

import errno
import json
import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
from safetensors.torch import load_file

from s2s import files
from s2s.checkpoint import loading, runs
from s2s.errors import UserError
from s2s.inspection import inspect
from s2s.manifests import MANIFEST, SEAL, write_manifest
from s2s.training import average, checkpoints
from tests.training.test_resume import same_bits, words


def one_error_line(capsys) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("s2s-")]
    assert len(lines) == 1
    return lines[0]


MORE = ["train.max_updates=21", "train.checkpoint_updates=7", "train.valid_updates=7", "train.keep_last=3"]


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory):
    """A run with the checkpoints 7, 14 and 21."""
    from tests.conftest import _call

    run = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        assert _call(patch, "s2s_cli.train", *words(store, run, *MORE)) == 0
    return run


@pytest.fixture
def run(trained, tmp_path) -> Path:
    return shutil.copytree(trained, tmp_path / "run", symlinks=True)


@pytest.fixture
def folder(run) -> Path:
    return (run / "last").resolve()


def refused(folder) -> str:
    """What is said of a damaged checkpoint, by all that read it."""
    with pytest.raises(UserError) as verified:
        runs.verify(folder)
    with pytest.raises(UserError) as loaded:
        loading.load_model(str(folder))
    assert str(loaded.value) == str(verified.value)
    assert str(verified.value) in inspect(folder)["damaged"] or inspect(folder)["damaged"]
    return str(verified.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("null", "an object of keys and values is needed, not null"),
        ("[]", "an object of keys and values is needed, not a list"),
        ("NaN", "NaN is not a finite number"),
        ("", "1: empty"),
        ("[" * 100_000, "nested deeper than 32"),
        ('{"a": ' * 5000 + "1" + "}" * 5000, "nested deeper than 32"),
        ('{"s2s": "0.1.0", "files": {}}', "format is missing"),
        ('{"format": "1", "s2s": "0.1.0", "files": {}}', "format: a whole number is needed, not '1'"),
        ('{"format": 7, "s2s": "0.1.0", "files": {}}', "format 7, this version "),
        ("\ud800", "not UTF-8, at byte 0"),
    ],
)
def test_a_manifest_of_another_kind_is_named(folder, content, said):
    (folder / MANIFEST).write_bytes(content.encode("utf-8", "surrogatepass"))
    where = f"{folder}/{MANIFEST}:"
    assert refused(folder).startswith((f"{where} {said}", f"{where}{said}"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"files": {}}, "config.yaml is not among its files"),
        ({"files": []}, "files: an object of keys and values is needed, not a list"),
        ({"files": {"../../../etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "files: the key '../../../etc/passwd'"),
        ({"files": {"model.safetensors": {"bytes": 1}}}, "files['model.safetensors'].sha256 is missing"),
        ({"files": {"model.safetensors": {"bytes": -1, "sha256": "0" * 64}}}, "files['model.safetensors'].bytes: a"),
        ({"files": {"model.safetensors": {"bytes": 1, "sha256": "../x"}}}, "files['model.safetensors'].sha256: a"),
        ({"s2s": None}, "s2s: text is needed, not null"),
    ],
)  # fmt: skip
def test_a_manifest_that_says_less_than_it_must_is_named_whoever_sealed_it(folder, change, said):
    write_manifest(folder, json.loads((folder / MANIFEST).read_text()) | change)
    assert refused(folder).startswith(f"{folder}/{MANIFEST}: {said}")


@pytest.mark.parametrize("name", ["model.safetensors", "training.safetensors", "source.vocabulary.txt"])
def test_a_file_that_the_manifest_does_not_list_is_not_read(folder, name):
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["files"][name]
    write_manifest(folder, manifest)
    assert refused(folder) == f"{folder}/{MANIFEST}: {name} is not among its files; the checkpoint is damaged"


def test_a_manifest_from_another_checkpoint_is_blamed_itself(run, folder):
    shutil.copy(run / "checkpoints/step_00000007" / MANIFEST, folder)
    said = refused(folder)
    assert said.startswith(
        f"{folder}/{MANIFEST}: damaged, or of another folder: its SHA-256 is not the one in {folder}/"
    )
    shutil.copy(run / "checkpoints/step_00000007" / SEAL, folder)
    assert refused(folder).startswith(f"{folder}/")  # a manifest that is whole: then it is a file that is wrong
    (folder / SEAL).unlink()
    assert refused(folder).startswith(f"{folder}/{SEAL}: missing")


def test_a_checkpoint_under_the_name_of_another_is_named(run):
    (run / "checkpoints/step_00000014").rename(run / "checkpoints/step_00000015")
    said = refused(run / "checkpoints/step_00000015")
    assert said.startswith(f"{run}/checkpoints/step_00000015: holds the checkpoint of update 14")
    (run / "checkpoints/step_00000015").rename(run / "mine")  # any other name is its owner's
    runs.verify(run / "mine")


def test_a_checkpoint_of_the_old_format_is_read_and_verified(folder):
    manifest = json.loads((folder / MANIFEST).read_text()) | {"format": 1}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / SEAL).unlink()
    loading.load_model(str(folder))
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    assert refused(folder).startswith(f"{folder}/model.safetensors: its content differs from what was saved")


def test_a_state_with_numbers_that_are_not_finite_resumes(store, run, folder, s2s):
    """As it was written by versions that let them through."""
    state = json.loads((folder / "state.json").read_text())
    state["progress"]["last_metrics"]["loss"] = float("nan")
    rewrite(folder, "state.json", json.dumps(state))
    assert s2s("train", *words(store, run, *MORE, "train.max_updates=22")) == 0
    assert runs.steps(run)[-1].name == "step_00000022"


def rewrite(folder, name: str, content: str) -> None:
    """Change a file of a checkpoint and its manifest."""
    (folder / name).write_text(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    facts = {"bytes": (folder / name).stat().st_size, "sha256": files.file_hash(folder / name)}
    write_manifest(folder, manifest | {"files": manifest["files"] | {name: facts}})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("state.json", "[]", "state.json: an object of keys and values is needed, not a list"),
        ("state.json", '{"progress": {"update": "x"}}', "state.json: progress.update: a whole number is"),
        ("state.json", '{"iterator": {"epoch": 1}}', "state.json: iterator.window is missing"),
        ("target.tokenizer.json", "[" * 100_000, "target.tokenizer.json: nested deeper than 32"),
        ("target.tokenizer.json", '{"type": "words", "normalization": "../../x"}',
         "target.tokenizer.json: normalization: one of none, nfc, nfkc is needed, not '../../x'"),
        ("target.tokenizer.json", '{"type": "../../x"}', "target.tokenizer.json: no tokenizer is called '../../x'"),
        ("target.tokenizer.json", '{"type": ["words"]}', "target.tokenizer.json: type: text is needed, not a list"),
        ("target.tokenizer.json", '{"type": "words", "lowercase": "no"}', "target.tokenizer.json: lowercase: true"),
        ("target.tokenizer.json", '{"type": "words", "exec": 1}', "target.tokenizer.json: unknown key 'exec'"),
    ],
)  # fmt: skip
def test_what_is_whole_and_of_another_shape_is_named(folder, name, content, said):
    rewrite(folder, name, content)
    with pytest.raises(UserError) as error:
        loading.load_model(str(folder))
    assert str(error.value).startswith(f"{folder}/{said}")


def test_a_run_json_with_a_zeroed_block_is_named(store, run, s2s, capsys):
    (run / "run.json").write_bytes(b"{" + bytes(100))
    capsys.readouterr()
    assert s2s("train", *words(store, run, *MORE, "train.max_updates=22")) == 2
    assert f"{run}/run.json: a zero byte at byte 1" in one_error_line(capsys)
    assert f"{run}/run.json: a zero byte at byte 1; it is damaged, or not UTF-8" in inspect(run)["damaged"]


# --- a run that is saving --------------------------------------------------------------------------------------------


def saving(run: Path, monkeypatch, times: int) -> list[Path]:
    """Have the run delete the checkpoint that is being read, each of the first so many times, after it has linked
    another one, as a run that is saving does. Returns the folders that were deleted."""
    plain, gone = loading.load_tensors, []

    def load_tensors(path, *args):
        if len(gone) < times:
            folder, number = path.parent, runs.update_of(path.parent)
            newer = folder.with_name(f"step_{number + 7:08d}")
            if not newer.exists():
                shutil.copytree(folder, newer)
                state = json.loads((newer / "state.json").read_text())
                state["progress"]["update"] = number + 7
                rewrite(newer, "state.json", json.dumps(state))
            for name in ("best", "last"):
                checkpoints.link(run, name, newer)
            files.remove(folder)
            gone.append(folder)
        return plain(path, *args)

    monkeypatch.setattr(loading, "load_tensors", load_tensors)
    return gone


@pytest.mark.parametrize("name", ["", "best", "last"])
def test_a_checkpoint_that_the_run_deletes_meanwhile_is_resolved_anew(run, monkeypatch, name, s2s, tmp_path):
    gone = saving(run, monkeypatch, 3)
    (tmp_path / "input").write_text("a b\n")
    assert s2s("generate", f"checkpoint={run / name}", f"input={tmp_path}/input", f"output={tmp_path}/out") == 0
    assert len(gone) == 3
    assert len((tmp_path / "out").read_text().splitlines()) == 1


def test_averaging_chooses_anew_where_the_run_deletes_meanwhile(run, monkeypatch, s2s, tmp_path):
    gone = saving(run, monkeypatch, 2)
    assert s2s("average", f"checkpoint={run}", "last=2", f"output={tmp_path}/average") == 0
    assert len(gone) == 2
    parents = list(json.loads((tmp_path / "average/state.json").read_text())["averaged_from"])
    assert parents == [str(folder) for folder in runs.steps(run)[-2:]]


def test_a_folder_that_is_named_itself_and_goes_is_an_error(run, folder, monkeypatch, s2s, capsys, tmp_path):
    saving(run, monkeypatch, 1)
    (tmp_path / "input").write_text("a b\n")
    capsys.readouterr()
    assert s2s("generate", f"checkpoint={folder}", f"input={tmp_path}/input") == 2
    assert one_error_line(capsys) == f"s2s-generate: error: checkpoint={folder}: was deleted while it was being read"


def test_what_is_always_gone_is_given_up(run, monkeypatch):
    gone = saving(run, monkeypatch, 1000)
    monkeypatch.setattr(runs, "PATIENCE", 0.5)
    with pytest.raises(UserError, match="deleted while being read, again and again: the run saves faster"):
        loading.load_model(str(run))
    assert len(gone) > 2


@pytest.mark.slow
def test_a_run_that_saves_every_update_is_decoded_averaged_and_inspected_meanwhile(store, tmp_path, spawn):
    run = tmp_path / "run"
    options = ["train.max_updates=100", "train.checkpoint_updates=1", "train.valid_updates=2", "train.keep_last=2"]
    process, read = spawn("train", *words(store, run, *options)), 0
    while process.poll() is None and not ((run / "last").exists() and (run / "best").exists()):
        time.sleep(0.01)
    while process.poll() is None:
        for path in (run, run / "best", run / "last"):
            loading.load_model(str(path))
        assert inspect(run)["damaged"] == inspect(run / "last")["damaged"] == []
        if len(runs.steps(run)) > 1:
            chosen = partial(average.choose, run, 2, None)
            runs.reread(chosen, partial(average.average_checkpoints, output=tmp_path / "average"))
        read += 1
    assert process.returncode == 0, process.communicate()[1]
    assert read > 3


def test_a_link_that_is_turned_while_it_is_looked_at_leads_to_where_it_points_then(run, monkeypatch):
    """Best is not taken for gone, so that another checkpoint were taken in its place."""
    checkpoints.link(run, "best", run / "checkpoints/step_00000007")
    plain, turned = Path.resolve, []

    def resolve(self, *args):
        found = plain(self, *args)
        if self.name == "best" and not turned:
            turned.append(found)
            checkpoints.link(run, "best", run / "checkpoints/step_00000014")
            files.remove(found)
        return found

    monkeypatch.setattr(Path, "resolve", resolve)
    assert runs.resolve(str(run)).name == "step_00000014"


def test_inspecting_a_run_passes_over_what_it_deletes_meanwhile(run, monkeypatch):
    from s2s import inspection

    plain = inspection._weights

    def weights(path, damaged):
        if path.parent.name == "step_00000007":
            files.remove(path.parent)
        return plain(path, damaged)

    monkeypatch.setattr(inspection, "_weights", weights)
    facts = inspect(run)
    assert facts["damaged"] == []
    assert [one["name"] for one in facts["checkpoints"]] == ["step_00000014", "step_00000021"]


# --- outputs that are inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "place", ["checkpoints/step_00000021", "checkpoints/step_00000007", "checkpoints/mine", "last"]
)
def test_an_average_is_not_written_among_the_checkpoints_of_a_run(run, s2s, capsys, place):
    before = sorted(os.listdir(run / "checkpoints"))
    capsys.readouterr()
    for command in (("average", "last=2"), ("export",)):
        words = (command[0], f"checkpoint={run}", *command[1:], f"output={run / place}", "overwrite=true")
        assert s2s(*words) == 2
        assert f"error: output={run / place}: lies in {run}, a run, which would be damaged" in one_error_line(capsys)
    assert sorted(os.listdir(run / "checkpoints")) == before
    runs.verify((run / "last").resolve())


def test_an_average_does_not_replace_one_of_its_inputs(run, s2s, capsys, tmp_path):
    for name, step in (("a", 14), ("b", 21)):
        shutil.copytree(run / f"checkpoints/step_{step:08d}", tmp_path / name)
    before = (tmp_path / "a/model.safetensors").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    capsys.readouterr()
    for output in ("a", "link"):
        words = (f"checkpoint=[{tmp_path}/a,{tmp_path}/b]", f"output={tmp_path / output}", "overwrite=true")
        assert s2s("average", *words) == 2
        assert "is one of the averaged checkpoints; choose another folder" in one_error_line(capsys)
    assert (tmp_path / "a/model.safetensors").read_bytes() == before
    assert s2s("average", f"checkpoint={tmp_path}/b", f"output={tmp_path}/link", "overwrite=true") == 0
    assert load_file(tmp_path / "a/model.safetensors").keys() == load_file(tmp_path / "b/model.safetensors").keys()
    assert (tmp_path / "link").is_symlink()


def test_a_store_does_not_replace_what_it_is_made_from(store, tmp_path, s2s, capsys):
    copy = shutil.copytree(store, tmp_path / "store")
    corpus = store.parent / "train"
    shutil.copy(f"{corpus}.src", copy / "train.src")
    shutil.copy(f"{corpus}.tgt", copy / "train.tgt")
    capsys.readouterr()
    for train, options, named in ((copy / "train", "tokenizer=words", copy / "train"),
                                  (corpus, f"tokenizer_from={copy}", copy)):  # fmt: skip
        words = ("source=src", "target=tgt", f"train={train}", options, f"store={copy}", "overwrite=true")
        assert s2s("preprocess", *words) == 2
        assert f"store={copy}: would replace its own input {named}" in one_error_line(capsys)
    assert (copy / "train.src").exists()


def test_a_plot_does_not_replace_what_it_draws(run, s2s, capsys):
    before = (run / "metrics.jsonl").read_bytes()
    capsys.readouterr()
    assert s2s("plot", run, f"output={run}/metrics.jsonl") == 2
    assert f"{run}/metrics.jsonl: the ending chooses the kind of a picture" in one_error_line(capsys)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert s2s("plot", run, f"output={run}/curves.png") == 0


def test_a_shortlist_is_not_written_into_its_store(store, tmp_path, s2s, capsys):
    copy = shutil.copytree(store, tmp_path / "store")
    capsys.readouterr()
    assert s2s("shortlist", f"store={copy}", f"output={copy}/manifest.json") == 2
    assert f"output={copy}/manifest.json: lies in {copy}, a store or a checkpoint" in one_error_line(capsys)


def test_training_passes_over_a_checkpoint_of_weights_only(store, run, trained, tmp_path, s2s, capsys):
    """An average that somebody copied into the run, as versions before let s2s-average do."""
    average.average_checkpoints(runs.steps(run)[-2:], run / "checkpoints/step_00000021")
    capsys.readouterr()
    assert s2s("train", *words(store, run, *MORE, "train.max_updates=23")) == 0
    said = capsys.readouterr().err
    assert f"warning: {run}/checkpoints/step_00000021: has weights and no training state" in said
    assert "resuming from step_00000014" in said
    whole = shutil.copytree(trained, tmp_path / "whole", symlinks=True)
    assert s2s("train", *words(store, whole, *MORE, "train.max_updates=23")) == 0
    same_bits(whole, run)
    assert (run / "checkpoints/aside_step_00000021").is_dir()


def test_a_place_that_another_command_is_writing_is_refused_by_every_command(store, trained, tmp_path, s2s, capsys):
    (tmp_path / "input").write_text("a b\n")
    corpus, place = store.parent, tmp_path / "taken"
    commands = [
        ("preprocess", "source=src", "target=tgt", f"train={corpus}/train", "tokenizer=words", f"store={place}"),
        ("generate", f"checkpoint={trained}", f"input={tmp_path}/input", f"output={place}"),
        ("average", f"checkpoint={trained}", "last=2", f"output={place}"),
        ("export", f"checkpoint={trained}", f"output={place}"),
        ("shortlist", f"store={store}", f"output={place}"),
        ("score", f"hypothesis={tmp_path}/input", f"reference={tmp_path}/input", f"output={place}"),
        ("score", f"hypothesis={tmp_path}/input", f"reference={tmp_path}/input", "metrics=wer", f"errors={place}"),
        ("plot", trained, f"output={place}"),
    ]  # fmt: skip
    for command in commands:
        with files.claim(place, "output"):
            capsys.readouterr()
            assert s2s(*command) == 2, command
            assert f"={place}: another command is writing to this path" in one_error_line(capsys)
    assert sorted(os.listdir(tmp_path)) == ["input"]


def test_a_link_that_cannot_be_made_is_named(run, monkeypatch):
    def full(target, *_, **__):
        raise OSError(errno.ENOSPC, "full", str(target))

    before = (run / "last").readlink()
    monkeypatch.setattr(os, "symlink", full)
    with pytest.raises(OSError, match="full") as error:
        checkpoints.link(run, "last", run / "checkpoints/step_00000007")
    assert error.value.filename == str(run / "last")
    assert (run / "last").readlink() == before


def test_two_trainings_of_one_run_and_the_second_changes_nothing(store, run, s2s, capsys):
    before = (run / "config.yaml").read_text()
    with files.lock(run / "lock", "taken"):
        for option in ("overwrite=true", "train.log_updates=3"):
            capsys.readouterr()
            assert s2s("train", *words(store, run, *MORE, option)) == 2
            assert f"run={run}: another s2s-train is running in this folder" in one_error_line(capsys)
    assert (run / "config.yaml").read_text() == before
    assert len(runs.steps(run)) == 3
