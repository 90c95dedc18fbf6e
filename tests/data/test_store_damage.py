"""What is read of a store is verified: every block of every file, the manifest itself, and stores of the old format."""

import json
import os
import random
import shutil

import numpy as np
import pytest

from s2s.data import blocks
from s2s.data.store import BLOCKS, Store
from s2s.data.store_writer import StoreWriter
from s2s.errors import UserError
from s2s.manifests import MANIFEST, SEAL, write_manifest
from tests.data.test_store import SOURCE, TARGET, flip_first_byte, write


def read_all(split) -> list:
    """Everything that there is to read."""
    examples = np.arange(len(split))
    return [
        *(split.gather(f"{side}.tokens", examples)[0].tolist() for side in ("source", "target")),
        *(split.lengths(f"{side}.tokens").tolist() for side in ("source", "target")),
        *(split.lines(f"{side}.text", examples) for side in ("source", "target")),
        split.lines("target.text"),
    ]


def flip(path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def test_each_bit_of_what_is_read_is_verified(tmp_path):
    write(tmp_path / "s")
    before, rng = read_all(Store(tmp_path / "s").split("valid")), random.Random(1)
    for path in sorted((tmp_path / "s").iterdir()):
        for bit in rng.sample(range(8 * path.stat().st_size), 3):
            flip(path, bit)
            with pytest.raises(UserError, match=f"{path}"):
                read_all(Store(tmp_path / "s").split("valid"))
            flip(path, bit)
    assert read_all(Store(tmp_path / "s").split("valid")) == before


def test_a_file_in_place_of_another_is_named(tmp_path):
    write(tmp_path / "s", target=SOURCE)  # all files of both sides have the same sizes
    path = tmp_path / "s" / "valid-00000.source.tokens.offsets"
    np.array([0, 0, 3], "<i8").tofile(path)  # sorted, within the file, and wrong
    split = Store(tmp_path / "s").split("valid")
    for read in (lambda: split.row("source.tokens", 0), lambda: split.lengths("source.tokens", 0, 1)):
        with pytest.raises(UserError, match=f"{path}: truncated or changed"):
            read()
    assert split.row("target.tokens", 0).tolist() == SOURCE[0]


def test_only_the_blocks_that_are_read_are_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "BLOCK", 16)
    monkeypatch.setattr("s2s.data.store_writer.BLOCK", 16)
    rows = [[4, 5, 6, 7] * 4 for _ in range(20)]  # a block each
    write(tmp_path / "s", source=rows, target=rows, shard=20)
    path = tmp_path / "s" / "valid-00000.source.tokens"
    flip(path, 8 * 16 * 10)
    split = Store(tmp_path / "s").split("valid")
    assert split.gather("source.tokens", [9, 11, 3])[0].tolist() == rows[0] * 3
    with pytest.raises(UserError, match=f"{path}: truncated or changed"):
        split.row("source.tokens", 10)


def test_a_file_that_was_replaced_is_verified_again(tmp_path):
    write(tmp_path / "s")
    store = Store(tmp_path / "s")
    assert store.split("valid").row("source.tokens", 0).tolist() == SOURCE[0]
    path = tmp_path / "s" / "valid-00000.source.tokens"
    flip_first_byte(path)
    with pytest.raises(UserError, match=f"{path}: truncated or changed"):
        store.split("valid").row("source.tokens", 0)


@pytest.mark.parametrize("name", [MANIFEST, SEAL, BLOCKS])
def test_what_comes_from_another_store_is_blamed_itself(tmp_path, name):
    write(tmp_path / "a")
    write(tmp_path / "b", source=TARGET, target=SOURCE)
    shutil.copy(tmp_path / "b" / name, tmp_path / "a" / name)
    blamed = MANIFEST if name == SEAL else name  # which of these two is right cannot be known; both are named
    with pytest.raises(UserError, match=f"^{tmp_path}/a/{blamed}: ") as error:
        Store(tmp_path / "a").split("valid").row("source.tokens", 0)
    assert name in str(error.value)


def test_a_store_whose_manifest_is_gone_names_it(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "s" / MANIFEST).unlink()
    with pytest.raises(UserError, match=f"^{tmp_path}/s/{MANIFEST}: missing; make the store again"):
        Store(tmp_path / "s")


def test_report_and_blocks_are_listed_and_verified_with_everything(tmp_path):
    with StoreWriter(tmp_path / "s", False) as writer:
        (writer.folder / "report.txt").write_text("a table\n")
        facts = {"task": "translation", "source_language": "de", "target_language": "en", "vocabularies": {}}
        writer.commit({**facts, "splits": {}})
    store = Store(tmp_path / "s")
    assert set(store.manifest["other_files"]) == {BLOCKS, "report.txt"}
    flip_first_byte(tmp_path / "s" / "report.txt")
    Store(tmp_path / "s").verify(["train"])
    with pytest.raises(UserError, match=r"report.txt: changed"):
        Store(tmp_path / "s").verify()


def as_format_2(path) -> None:
    """Make of a store one as it was before blocks and the manifest had hashes."""
    manifest = json.loads((path / MANIFEST).read_text())
    del manifest["other_files"], manifest["block_size"]
    for split in manifest["splits"].values():
        columns = split.pop("columns")
        for side in ("source", "target"):
            tokens = columns[f"{side}.tokens"]
            split[side] = {"type": tokens["type"], "lengths": {"max": tokens["longest"]}, "tokens": tokens["values"]}
        split["text"] = "target.text" in columns
    (path / MANIFEST).write_text(json.dumps(manifest | {"format": 2}, indent=2))
    (path / SEAL).unlink()
    (path / BLOCKS).unlink()


def test_a_store_of_the_old_format_is_read_and_its_files_are_verified(tmp_path):
    digest = write(tmp_path / "s")["digest"]
    before = read_all(Store(tmp_path / "s").split("valid"))
    as_format_2(tmp_path / "s")
    assert Store(tmp_path / "s").digest == digest
    assert read_all(Store(tmp_path / "s").split("valid")) == before
    for path in sorted((tmp_path / "s").glob("valid-*")):
        flip_first_byte(path)
        with pytest.raises(UserError, match=f"^{path}: "):
            read_all(Store(tmp_path / "s").split("valid"))
        flip_first_byte(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "3"}, "format: a whole number is needed, not '3'"),
        ({"files": {}}, "split 'valid': its counts do not fit its files"),
        (
            {"files": {"../../x": {"size": 1, "sha256": "0" * 64}}},
            "files: the key '../../x': the name of a file in this",
        ),
        (
            {"files": {"/etc/passwd": {"size": 1, "sha256": "0" * 64}}},
            "files: the key '/etc/passwd': the name of a file",
        ),
        ({"splits": []}, "splits: an object of keys and values is needed, not a list"),
        ({"splits": {"../valid": {}}}, "splits: the key '../valid': the name of a split is needed"),
        ({"digest": None}, "digest: a SHA-256 in hexadecimal is needed, not null"),
        ({"vocabularies": 3}, "vocabularies: an object of keys and values is needed, not 3"),
    ],
)
def test_a_manifest_of_another_shape_is_named_whoever_sealed_it(tmp_path, change, said):
    manifest = write(tmp_path / "s")
    write_manifest(tmp_path / "s", manifest | change)
    with pytest.raises(UserError) as error:
        Store(tmp_path / "s")
    if "files" in change and not change["files"]:
        assert str(error.value).startswith(f"{tmp_path}/s/{MANIFEST}: ")
    else:
        assert str(error.value).startswith(f"{tmp_path}/s/{MANIFEST}: {said}")


def test_a_type_of_tokens_is_one_of_those_that_there_are(tmp_path):
    manifest = write(tmp_path / "s")
    manifest["splits"]["valid"]["columns"]["source.tokens"]["type"] = "O"
    write_manifest(tmp_path / "s", manifest)
    with pytest.raises(
        UserError, match=r"type: one of \|u1, <u2, <u4, <i2, <i4, <i8, <f2, <f4, <f8 is needed, not 'O'"
    ):
        Store(tmp_path / "s")


# --- two at once -----------------------------------------------------------------------------------------------------


def test_the_second_writer_of_a_store_is_refused_at_once(tmp_path):
    words = {"task": "translation", "source_language": "de", "target_language": "en", "vocabularies": {}, "splits": {}}
    with StoreWriter(tmp_path / "s", False) as first:
        second = StoreWriter(tmp_path / "s", False)  # the place is free as yet
        with pytest.raises(UserError, match=f"^store={tmp_path}/s: another command is writing to this path"), second:
            pass
        first.commit(words)
        with pytest.raises(UserError, match="another command is writing"), StoreWriter(tmp_path / "s", True):
            pass
    with pytest.raises(UserError, match="the store exists already"), second:  # it waited, and looks again
        pass
    assert os.listdir(tmp_path) == ["s"]


def test_what_a_killed_writer_left_is_no_obstacle_and_goes(tmp_path):
    child = os.fork()
    if not child:
        writer = StoreWriter(tmp_path / "s", False)
        writer.__enter__()
        (writer.folder / "half").write_text("a half")
        os.kill(os.getpid(), 9)
    os.waitpid(child, 0)
    assert sorted(os.listdir(tmp_path)) == [".partial-s", ".s.lock"]
    write(tmp_path / "s")
    assert os.listdir(tmp_path) == ["s"]
    Store(tmp_path / "s").verify()


def test_a_store_that_was_being_replaced_when_its_writer_was_killed_is_put_back(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "s").rename(tmp_path / ".replaced-s")
    with pytest.raises(UserError, match="the store exists already"):
        write(tmp_path / "s")
    assert Store(tmp_path / "s").split("valid").row("source.tokens", 0).tolist() == SOURCE[0]
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"kind": "tokens", "type": "<f4"}, "column source.tokens: no kind tokens of type <f4 and width 1"),
        ({"kind": "text", "type": "|u1", "width": 2}, "column source.tokens: no kind text of type |u1 and width 2"),
        (None, "its counts do not fit its files"),
    ],
)
def test_columns_that_cannot_be_are_named(tmp_path, facts, said):
    manifest = write(tmp_path / "s")
    columns = manifest["splits"]["valid"]["columns"]
    if facts:
        columns["source.tokens"] |= facts
    else:
        columns["more"] = columns["target.text"]
    write_manifest(tmp_path / "s", manifest)
    with pytest.raises(UserError) as error:
        Store(tmp_path / "s")
    assert said in str(error.value)


def test_a_manifest_of_this_format_declares_its_columns(tmp_path):
    manifest = write(tmp_path / "s")
    del manifest["splits"]["valid"]["columns"]
    write_manifest(tmp_path / "s", manifest)
    with pytest.raises(UserError, match="split 'valid': its columns: columns is missing; make the store again"):
        Store(tmp_path / "s")
