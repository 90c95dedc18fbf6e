"""The store: what goes in comes out, opening reads nothing, damage is named, nothing half-written stays."""

import builtins
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest

from s2s.data import ragged
from s2s.data.ragged import OFFSET
from s2s.data.store import MANIFEST, Store, Stores, StoreWriter, digest, token_type
from s2s.errors import UserError
from s2s.text.words import WordTokenizer

SOURCE = [[4, 5, 6], [], [7]]
TARGET = [[5], [4, 4, 4, 4], [6, 5]]


def flat(rows):
    return np.concatenate([np.array(row, np.int32) for row in rows]), np.array([len(row) for row in rows])


def words(symbols="a b c d"):
    return WordTokenizer.learn(WordTokenizer.Config(), [[symbols]])


def write(path, overwrite=False, fail=None, source=SOURCE, target=TARGET, tokenizer=None, shard=2, split="valid",
          languages=("de", "en")):  # fmt: skip
    tokenizer = tokenizer or words()
    with StoreWriter(path, overwrite, shard) as writer:
        writer.add_tokenizer(tokenizer, "source")
        writer.add_tokenizer(tokenizer, "target")
        for side, rows in (("source", source), ("target", target)):
            tokens = writer.column(split, f"{side}.tokens", token_type(8))
            tokens.append(*flat(rows[:1]))
            tokens.append(*flat(rows[1:]))
            text = "".join(f"{' '.join(map(str, row))}\n" for row in rows).encode()
            column = writer.column(split, f"{side}.text", np.dtype("u1"))
            column.append(np.frombuffer(text, "u1"), np.array([len(line) + 1 for line in text.split(b"\n")[:-1]]))
        if fail:
            raise fail
        sides = {
            side: {"type": token_type(8).str, "lengths": {"max": max(map(len, rows))}}
            for side, rows in (("source", source), ("target", target))
        }
        facts = {"task": "translation", "source_language": languages[0], "target_language": languages[1]}
        vocabulary = {"size": 8, "digest": tokenizer.vocabulary.digest}
        facts["vocabularies"] = {"source": vocabulary, "target": vocabulary}
        counts = {"pairs": len(source), "shards": tokens.shards, "corpora": [{"name": "c", "kept": len(source)}]}
        facts["splits"] = {split: {**counts, "text": True, **sides}}
        return writer.commit(facts)


def test_what_was_written_is_read(tmp_path):
    write(tmp_path / "s")
    store = Store(tmp_path / "s")
    split = store.split("valid")
    assert (store.splits, len(split), store.source_language, store.target_language) == (["valid"], 3, "de", "en")
    assert [split.source(i).tolist() for i in range(3)] == SOURCE
    assert [split.target(i).tolist() for i in range(3)] == TARGET
    assert split.source_lengths.tolist() == [3, 0, 1]
    assert split.target_lengths.tolist() == [1, 4, 2]
    assert split.source(0).dtype == np.int64
    assert split.source_text() == ["4 5 6", "", "7"]
    assert split.target_text() == ["5", "4 4 4 4", "6 5"]
    store.verify()


def test_a_shared_tokenizer_is_one_object(tmp_path):
    write(tmp_path / "s")
    source, target = Store(tmp_path / "s").tokenizers()
    assert source is target
    assert source.encode("d a") == words().encode("d a")


def test_an_example_outside_the_split_is_an_error(tmp_path):
    write(tmp_path / "s")
    for index in (3, -1):
        with pytest.raises(IndexError):
            Store(tmp_path / "s").split("valid").source(index)


@pytest.mark.parametrize(("symbols", "dtype"), [(5, "|u1"), (256, "|u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_tokens_have_the_smallest_type_that_fits(symbols, dtype):
    assert token_type(symbols).str == dtype


def test_a_split_of_empty_lines_only_is_readable(tmp_path):
    write(tmp_path / "s", source=[[], [], []])
    split = Store(tmp_path / "s").split("valid")
    assert split.source_lengths.tolist() == [0, 0, 0]
    assert split.source(1).tolist() == []


def test_an_unknown_split_is_an_error_that_names_the_known_ones(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(UserError, match="no split 'test'; there is valid"):
        Store(tmp_path / "s").split("test")


def test_text_that_was_not_kept_is_an_error_that_says_how_to_keep_it(tmp_path):
    write(tmp_path / "s")
    store = Store(tmp_path / "s")
    store.manifest["splits"]["valid"]["text"] = False
    split = store.split("valid")
    assert not split.has_text
    for read in (split.source_text, lambda: split.texts("source", [0])):
        with pytest.raises(UserError, match="keep_text=true"):
            read()


FILES = [
    "valid-00000.source.tokens",
    "valid-00001.target.tokens.offsets",
    "valid-00000.source.text",
    "source.vocabulary.txt",
]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_named_at_opening(tmp_path, name):
    write(tmp_path / "s")
    path = tmp_path / "s" / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match=f"{path}: truncated or changed"):
        Store(tmp_path / "s")
    path.unlink()
    with pytest.raises(UserError, match=f"{path}: this file of the store is missing"):
        Store(tmp_path / "s")


def flip_first_byte(path):
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["target.vocabulary.txt", "source.tokenizer.json"])
def test_a_changed_tokenizer_is_named_at_opening(tmp_path, name):
    write(tmp_path / "s")
    flip_first_byte(tmp_path / "s" / name)
    with pytest.raises(UserError, match=f"{name}: changed: its SHA-256"):
        Store(tmp_path / "s")


def test_changed_tokens_are_named_by_verify(tmp_path):
    write(tmp_path / "s")
    flip_first_byte(tmp_path / "s" / "valid-00000.source.tokens")
    store = Store(tmp_path / "s")
    with pytest.raises(UserError, match=r"valid-00000.source.tokens: changed"):
        store.verify()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', ""])
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path, text):
    write(tmp_path / "s")
    (tmp_path / "s" / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=MANIFEST):
        Store(tmp_path / "s")


def change_manifest(path, **changes):
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    (path / MANIFEST).write_text(json.dumps(manifest))
    return manifest


def test_a_newer_format_and_a_wrong_digest_are_refused(tmp_path):
    write(tmp_path / "s")
    change_manifest(tmp_path / "s", target_language="fr")
    with pytest.raises(UserError, match="digest does not fit"):
        Store(tmp_path / "s")
    change_manifest(tmp_path / "s", format=99)
    with pytest.raises(UserError, match="store format 99, this version reads 2"):
        Store(tmp_path / "s")


def test_a_folder_that_is_no_store_is_an_error(tmp_path):
    with pytest.raises(UserError, match="not a store"):
        Store(tmp_path)
    with pytest.raises(UserError, match="no such store"):
        Store(tmp_path / "nothing")


def test_the_digest_identifies_the_data(tmp_path):
    first = write(tmp_path / "a")["digest"]
    assert write(tmp_path / "b")["digest"] == first
    assert write(tmp_path / "c", source=[[4, 5, 7], [], [7]])["digest"] != first
    assert write(tmp_path / "d", tokenizer=words("a b c e"))["digest"] != first


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(143)])
def test_nothing_stays_of_a_store_that_was_not_completed(tmp_path, error):
    with pytest.raises(type(error)):
        write(tmp_path / "in" / "s", fail=error)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_store_is_replaced_only_with_overwrite_and_kept_if_that_fails(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(UserError, match="overwrite=true replaces it"):
        write(tmp_path / "s")
    with pytest.raises(ValueError, match="x"):
        write(tmp_path / "s", overwrite=True, fail=ValueError("x"), source=[[5], [5], [5]])
    assert Store(tmp_path / "s").split("valid").source(0).tolist() == SOURCE[0]
    write(tmp_path / "s", overwrite=True, source=[[5], [5], [5]])
    assert Store(tmp_path / "s").split("valid").source(0).tolist() == [5]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_old_store_survives_a_failed_rename(tmp_path, monkeypatch):
    write(tmp_path / "s")
    rename = os.rename

    def fails_once(source, target):
        if ".partial-" in str(source) and not str(source).endswith(".replaced"):
            raise OSError(5, "no luck")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fails_once)
    with pytest.raises(OSError, match="no luck"):
        write(tmp_path / "s", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]
    Store(tmp_path / "s").verify()


def test_what_is_not_a_store_is_never_replaced(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "thesis.txt").write_text("all my work")
    (tmp_path / "f").write_text("a file")
    for name in ("s", "f"):
        with pytest.raises(UserError, match="not a store; choose another place"):
            write(tmp_path / name, overwrite=True)
    assert (tmp_path / "s" / "thesis.txt").read_text() == "all my work"


def test_an_empty_folder_is_a_free_place(tmp_path):
    (tmp_path / "s").mkdir()
    write(tmp_path / "s")
    assert len(Store(tmp_path / "s").split("valid")) == len(SOURCE)


def test_a_link_to_a_folder_stays_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "s").symlink_to(tmp_path / "far")
    write(tmp_path / "s")
    assert (tmp_path / "s").is_symlink()
    Store(tmp_path / "far")


BILLION = 10**9
SHARD = 10**7
TOKENS = 30  # of each side of each pair


@pytest.fixture
def billion(tmp_path):
    """A store that claims a billion pairs: sparse files, with offsets where the tests will look."""
    manifest = write(tmp_path / "s", split="train")
    files = {name: facts for name, facts in manifest["files"].items() if not name.startswith("train-")}
    shards = [SHARD] * (BILLION // SHARD)
    for side in ("source", "target"):
        for shard in range(len(shards)):
            name = f"train-{shard:05d}.{side}.tokens"
            for file, size in ((name, TOKENS * SHARD), (f"{name}.offsets", 8 * (SHARD + 1))):
                with open(tmp_path / "s" / file, "wb") as sparse:
                    sparse.truncate(size)  # no block on the disk
                files[file] = {"size": size, "sha256": ""}
        for shard, last in ((50, SHARD), (51, 1000)):  # the last thousand pairs of a shard, the first of the next
            numbers = np.arange(last - 1000, last + 1)
            with open(tmp_path / "s" / f"train-{shard:05d}.{side}.tokens.offsets", "rb+") as file:
                file.seek(8 * numbers[0])
                file.write((TOKENS * numbers).astype(OFFSET).tobytes())
    counts = {"pairs": BILLION, "shards": shards, "text": False, "corpora": [{"name": "c", "kept": BILLION}]}
    manifest["splits"]["train"] |= counts
    for path in (tmp_path / "s").glob("*.text*"):
        path.unlink()
    change_manifest(tmp_path / "s", **manifest | {"files": files, "digest": digest(manifest | {"files": files})})
    return tmp_path / "s"


@pytest.fixture
def opened(monkeypatch):
    """Names of the files that are opened."""
    names = []
    for module in (builtins, io):

        def recorded(path, *arguments, original=module.open, **options):
            names.append(Path(path).name)
            return original(path, *arguments, **options)

        monkeypatch.setattr(module, "open", recorded)
    return names


def test_opening_a_store_of_a_billion_pairs_reads_its_manifest_and_tokenizers_only(billion, opened):
    store = Stores([billion, billion])
    split = store.split("train")
    assert len(split) == 2 * BILLION
    assert split.longest == (3, 4)
    assert split.corpora[1][:3] == ("c", BILLION, 2 * BILLION)
    store.tokenizers()
    assert MANIFEST in opened
    assert [name for name in opened if "tokens" in name] == []


def test_a_range_in_the_middle_of_a_billion_pairs_is_read_alone(billion, opened, monkeypatch):
    split = Store(billion).split("train")
    read = []
    original = ragged._read
    monkeypatch.setattr(ragged, "_read", lambda *where: read.append(where[2:]) or original(*where))
    first = 51 * SHARD
    for lengths in split.lengths(first - 1000, first + 500):
        assert lengths.dtype == np.int32
        assert lengths.tolist() == [TOKENS] * 1500
    assert read == [(SHARD - 1000, 1001), (0, 501)] * 2
    ids, lengths = split.gather("source", [first - 1, first, first - 1000])
    assert (lengths.tolist(), ids.tolist()) == ([TOKENS] * 3, [0] * 3 * TOKENS)
    shards = {name.partition(".")[0] for name in opened if "tokens" in name}
    assert shards == {"train-00050", "train-00051"}
