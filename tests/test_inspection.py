"""What s2s-inspect says of stores, runs, checkpoints and shortlists, whole and damaged."""

import json
import shutil
import subprocess
import sys

import pytest

from s2s.data.store import Store
from s2s.files import file_hash
from s2s.inspection import inspect, text
from tests.training.test_resume import words


@pytest.fixture(scope="module")
def run(store, tmp_path_factory):
    """A run of 40 updates, resumed at 20, with its last two checkpoints averaged beside it."""
    from tests.conftest import _call

    folder = tmp_path_factory.mktemp("inspected") / "run"
    options = ["train.log_updates=5", "train.keep_last=2", "train.checkpoint_updates=10", "train.valid_updates=10"]
    with pytest.MonkeyPatch.context() as patch:
        for updates in (20, 40):
            assert _call(patch, "s2s_cli.train", *words(store, folder, *options, f"train.max_updates={updates}")) == 0
        average = ("last=2", f"output={folder.parent / 'average'}")
        assert _call(patch, "s2s_cli.average", f"checkpoint={folder}", *average) == 0
    return folder


def flip(path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_store_is_told_by_its_manifest(store):
    facts = inspect(store)
    assert (facts["kind"], facts["damaged"], facts["digest"]) == ("store", [], Store(store).digest)
    assert {name: split["pairs"] for name, split in facts["splits"].items()} == {"train": 400, "valid": 20, "test": 10}
    assert facts["vocabularies"]["source"]["type"] == "words"
    assert facts["bytes"] == sum(path.stat().st_size for path in store.iterdir())
    lines = text(facts).splitlines()
    assert lines[0].startswith(f"store {store}: ")
    assert any(line.split()[:3] == ["train", "400", "0"] for line in lines)
    assert any(facts["digest"] in line for line in lines)


def test_a_checkpoint_is_told_with_metrics_config_hashes_and_size(run):
    facts = inspect(run / "last")
    assert (facts["kind"], facts["damaged"], facts["update"]) == ("checkpoint", [], 40)
    assert facts["files"]["model.safetensors"]["sha256"] == file_hash(run / "last/model.safetensors")
    assert facts["validated"]["update"] == 40
    assert facts["config"]["model"]["encoder"]["width"] == 32
    said = (run / "train.log").read_text()
    assert f"{facts['weights']['parameters']:,} parameters" in said
    shown = text(facts)
    assert f"loss {facts['validated']['loss']:.3f}" in shown
    assert "model.encoder.width=32" in shown
    assert facts["origin"]["store_digest"] in shown


def test_an_average_names_its_parents_and_what_became_of_them(run, tmp_path):
    facts = inspect(run.parent / "average")
    parents = facts["parents"]["averaged_from"]
    assert [path.rsplit("/", 1)[1] for path in parents] == ["step_00000030", "step_00000040"]
    for path, parent in parents.items():
        assert parent == {"sha256": file_hash(f"{path}/model.safetensors"), "now": "there"}
    assert f"averaged from {run}/checkpoints/step_00000040, SHA-256 {parent['sha256']} (there)" in text(facts)

    state = {"averaged_from": {str(run / "last"): "0" * 64, str(tmp_path / "nowhere"): "0" * 64}}
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "state.json").write_text(json.dumps(state))
    now = [parent["now"] for parent in inspect(tmp_path)["parents"]["averaged_from"].values()]
    assert now == ["other weights", "gone"]


def test_a_run_is_told_by_its_checkpoints_and_its_history(run):
    facts = inspect(run)
    assert (facts["kind"], facts["damaged"], facts["resumed"]) == ("run", [], 1)
    assert [(c["name"], "last" in c["links"]) for c in facts["checkpoints"]][-2:] == [
        ("step_00000030", False),
        ("step_00000040", True),
    ]
    assert [event["update"] for event in facts["validations"]] == [10, 20, 30, 40]
    assert facts["train"]["update"] == 40
    shown = text(facts)
    assert "the last 4 of 4 validations" in shown
    assert "checkpoint step_00000040 (" in shown


def test_metrics_of_some_validations_only_are_shown(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", symlinks=True)
    lines = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    for event in lines:
        if event["kind"] == "valid":
            event |= {"chrf": 12.5} if event["update"] == 10 else {"wer": 40.0}
    (copy / "metrics.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in lines))
    rows = [line.split() for line in text(inspect(copy)).splitlines()]
    header = next(row for row in rows if row[:1] == ["update"] and "chrf" in row)
    first, *_, last = (row for row in rows if row[:1] in (["10"], ["40"]))
    assert [row[header.index("chrf")] for row in (first, last)] == ["12.500", "-"]
    assert [row[header.index("wer")] for row in (first, last)] == ["-", "40.000"]


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (
            lambda folder: flip(folder / "training.safetensors"),
            "training.safetensors: its content differs from what was",
        ),
        (lambda folder: (folder / "source.vocabulary.txt").unlink(), "source.vocabulary.txt: missing"),
        (lambda folder: (folder / "state.json").write_text("{"), "state.json: 1 bytes,"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "model.safetensors: 100 bytes,"),
        (
            lambda folder: (folder / "manifest.json").write_text("[]"),
            "manifest.json: an object of keys and values is needed",
        ),
    ],
)
def test_damaged_files_of_a_checkpoint_are_named_and_the_rest_is_told(run, tmp_path, s2s, capsys, damage, complaint):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(run / "last", folder)
    damage(folder)
    (said,) = inspect(folder)["damaged"]
    assert f"{folder}/{complaint}" in said
    capsys.readouterr()
    assert s2s("inspect", folder) == 1
    shown = capsys.readouterr()
    assert f"DAMAGED {said}" in shown.out
    assert "model.encoder.width=32" in shown.out
    assert shown.err == f"s2s-inspect: failed: 1 damaged: {said}\n"


def test_a_damaged_checkpoint_inside_a_run_and_a_file_of_a_store_are_named(run, store, tmp_path):
    import shutil

    copy = tmp_path / "run"
    shutil.copytree(run, copy, symlinks=True)
    flip(copy / "checkpoints/step_00000030/model.safetensors")
    assert [c.split(":")[0] for c in inspect(copy)["damaged"]] == [
        f"{copy}/checkpoints/step_00000030/model.safetensors"
    ]
    assert inspect(copy, verify=False)["damaged"] == []  # the size is right
    data = tmp_path / "store"
    shutil.copytree(store, data)
    flip(data / "train-00000.source.tokens")
    assert inspect(data)["damaged"] == [f"{data}/train-00000.source.tokens: its content differs from what was written"]


def test_a_shortlist_is_told_from_other_files(store, tmp_path, s2s, capsys):
    assert s2s("shortlist", f"store={store}", f"output={tmp_path / 'short'}", "candidates=3", "frequent=2") == 0
    facts = inspect(tmp_path / "short")
    assert (facts["kind"], facts["candidates"], facts["frequent"]) == ("shortlist", 3, 2)
    assert facts["vocabularies"]["target"]["digest"] == Store(store).manifest["vocabularies"]["target"]["digest"]
    (tmp_path / "text").write_text("a line")
    capsys.readouterr()
    for path, complaint in [
        (tmp_path / "text", "neither a store, a run, a checkpoint nor a shortlist"),
        (tmp_path, "neither a store, a run, a checkpoint nor a shortlist"),
        (tmp_path / "nothing", "no such file or folder"),
    ]:
        assert s2s("inspect", path) == 2
        assert f"{path}: {complaint}" in capsys.readouterr().err


def test_json_holds_the_facts_of_each_path_and_words_without_equals_are_paths(run, store, s2s, capsys):
    capsys.readouterr()
    assert s2s("inspect", store, "format=json", run / "best") == 0
    decoder, rest = json.JSONDecoder(), capsys.readouterr().out
    first, end = decoder.raw_decode(rest)
    second, _ = decoder.raw_decode(rest[end:].lstrip())
    assert (first, second) == (inspect(store), inspect(run / "best"))
    assert s2s("inspect", f"path=[{store}]") == 0
    assert capsys.readouterr().out.startswith(f"store {store}")
    assert s2s("inspect") == 2
    assert s2s("train", "store") == 2  # no plain words there
    assert "'store' is not key=value" in capsys.readouterr().err


def test_neither_inspecting_nor_plotting_imports_torch(run):
    code = "import sys; from {0} import main; sys.argv = ['x', {1!r}]; main(); assert 'torch' not in sys.modules"
    for module in ("s2s_cli.inspect", "s2s_cli.plot"):
        subprocess.run([sys.executable, "-c", code.format(module, str(run))], check=True, capture_output=True)
