"""The store: what goes in comes out, opening reads nothing, damage is named, nothing half-written stays."""

import builtins
import hashlib
import io
import json
import os
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data import ragged
from s2s.data.blocks import BLOCK, Blocks
from s2s.data.columns import Column, tokens
from s2s.data.ragged import OFFSET, Ragged, RaggedWriter, offsets_path
from s2s.data.store import BLOCKS, Store, Stores, digest
from s2s.data.store_writer import StoreWriter
from s2s.errors import UserError
from s2s.files import file_hash
from s2s.manifests import MANIFEST, write_manifest
from s2s.text.words import WordTokenizer

SOURCE = [[4, 5, 6], [], [7]]
TARGET = [[5], [4, 4, 4, 4], [6, 5]]


def flat(rows):
    return np.array([token for row in rows for token in row], np.int32), np.array([len(row) for row in rows], int)


def words(symbols="a b c d"):
    return WordTokenizer.learn(WordTokenizer.Config(), [[symbols]])


def write(path, overwrite=False, fail=None, source=SOURCE, target=TARGET, tokenizer=None, shard=2, split="valid",
          languages=("de", "en")):  # fmt: skip
    tokenizer = tokenizer or words()
    with StoreWriter(path, overwrite, shard) as writer:
        writer.add_tokenizer(tokenizer, "source")
        writer.add_tokenizer(tokenizer, "target")
        for side, rows in (("source", source), ("target", target)):
            ids = writer.column(split, tokens(f"{side}.tokens", 8))
            ids.append(*flat(rows[:1]))
            ids.append(*flat(rows[1:]))
            text = "".join(f"{' '.join(map(str, row))}\n" for row in rows).encode()
            column = writer.column(split, Column(f"{side}.text", "text"))
            column.append(np.frombuffer(text, "u1"), np.array([len(line) + 1 for line in text.split(b"\n")[:-1]]))
        if fail:
            raise fail
        facts = {"task": "translation", "source_language": languages[0], "target_language": languages[1]}
        vocabulary = {"size": 8, "digest": tokenizer.vocabulary.digest}
        facts["vocabularies"] = {"source": vocabulary, "target": vocabulary}
        facts["splits"] = {split: {"corpora": [{"name": "c", "kept": len(source)}]}}
        return writer.commit(facts)


def test_what_was_written_is_read(tmp_path):
    write(tmp_path / "s")
    store = Store(tmp_path / "s")
    split = store.split("valid")
    assert (store.splits, len(split), store.source_language, store.target_language) == (["valid"], 3, "de", "en")
    assert [split.row("source.tokens", i).tolist() for i in range(3)] == SOURCE
    assert [split.row("target.tokens", i).tolist() for i in range(3)] == TARGET
    assert split.lengths("source.tokens").tolist() == [3, 0, 1]
    assert split.lengths("target.tokens").tolist() == [1, 4, 2]
    assert split.row("source.tokens", 0).dtype == np.int64
    assert split.lines("source.text") == ["4 5 6", "", "7"]
    assert split.lines("target.text") == ["5", "4 4 4 4", "6 5"]
    store.verify()


def made_up(rng, pairs):
    return [rng.integers(4, 8, rng.integers(0, 6)).tolist() for _ in range(pairs)]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=3),
)
def test_any_examples_of_any_shards_of_any_stores_are_those_that_were_written(tmp_path_factory, seed, sizes):
    folder, rng = tmp_path_factory.mktemp("stores"), np.random.default_rng(seed)
    rows = {"source": [], "target": []}
    for number, (shard, pairs) in enumerate(sizes):
        source, target = made_up(rng, pairs), made_up(rng, pairs)
        rows["source"] += source
        rows["target"] += target
        write(folder / str(number), source=source, target=target, shard=shard)
    split = Stores([folder / str(number) for number in range(len(sizes))]).split("valid")
    assert len(split) == len(rows["source"])
    examples = rng.integers(0, len(split), rng.integers(0, 30))
    first, last = sorted(rng.integers(0, len(split) + 1, 2))
    lengths = {side: split.lengths(f"{side}.tokens", first, last) for side in rows}
    for side, expected in rows.items():
        ids, counts = split.gather(f"{side}.tokens", examples)
        assert ids.tolist() == [token for i in examples for token in expected[i]]
        assert counts.tolist() == [len(expected[i]) for i in examples]
        assert ids.dtype == counts.dtype == np.int64
        assert split.lines(f"{side}.text", examples) == [" ".join(map(str, expected[i])) for i in examples]
        assert lengths[side].tolist() == [len(row) for row in expected[first:last]]
    assert split.lines("target.text") == [" ".join(map(str, row)) for row in rows["target"]]
    assert [split.longest(f"{side}.tokens") for side in rows] == [max(map(len, side)) for side in rows.values()]
    assert [last - first for _, first, last, *_ in split.corpora] == [pairs for _, pairs in sizes]


def test_a_shared_tokenizer_is_one_object(tmp_path):
    write(tmp_path / "s")
    source, target = Store(tmp_path / "s").tokenizers().values()
    assert source is target
    assert source.encode("d a") == words().encode("d a")


def test_an_example_outside_the_split_is_an_error(tmp_path):
    write(tmp_path / "s")
    split = Store(tmp_path / "s").split("valid")
    for index in (3, -1):
        with pytest.raises(IndexError):
            split.row("source.tokens", index)
    for first, last in ((-1, 2), (0, 4), (2, 1)):
        with pytest.raises(IndexError):
            split.lengths("source.tokens", first, last)


@pytest.mark.parametrize(("symbols", "dtype"), [(5, "|u1"), (256, "|u1"), (257, "<u2"), (65536, "<u2"), (65537, "<u4")])
def test_tokens_have_the_smallest_type_that_fits(symbols, dtype):
    assert tokens("source.tokens", symbols).type == dtype


def test_a_split_of_empty_lines_only_is_readable(tmp_path):
    write(tmp_path / "s", source=[[], [], []])
    split = Store(tmp_path / "s").split("valid")
    assert split.lengths("source.tokens").tolist() == [0, 0, 0]
    assert split.row("source.tokens", 1).tolist() == []


def test_an_unknown_split_is_an_error_that_names_the_known_ones(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(UserError, match="no split 'test'; it has valid"):
        Store(tmp_path / "s").split("test")


def test_text_that_was_not_kept_is_an_error_that_says_how_to_keep_it(tmp_path):
    write(tmp_path / "s")
    store = Store(tmp_path / "s")
    del store._columns["valid"]["source.text"]
    split = store.split("valid")
    assert "source.text" not in split
    assert "target.text" in split
    for read in (lambda: split.lines("source.text"), lambda: split.lines("source.text", [0])):
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


def test_what_is_damaged_after_opening_is_named_when_it_is_read(tmp_path):
    path = tmp_path / "s" / "valid-00000.source.tokens"
    for damaged, damage in (
        (path, lambda file: file.write_bytes(file.read_bytes()[:-1])),
        (path, lambda file: file.write_bytes(b"")),
        (path, lambda file: file.unlink()),
        (path, lambda file: file.unlink() or file.mkdir()),
        (offsets_path(path), lambda file: file.write_bytes(file.read_bytes()[:-8])),
        (offsets_path(path), lambda file: file.write_bytes(np.array([0, 3, 2], OFFSET).tobytes())),
        (offsets_path(path), lambda file: file.unlink()),
    ):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        write(tmp_path / "s")
        split, used = (Store(tmp_path / "s").split("valid") for _ in range(2))
        used.row("source.tokens", 2)
        used.row("target.tokens", 0)
        damage(damaged)
        reads = [lambda split=split: split.gather("source.tokens", [2, 0, 1])]
        if damaged == offsets_path(path):
            reads.append(lambda split=split: split.lengths("source.tokens", 1, 3))
        for read in reads:
            with pytest.raises(UserError, match=f"^{damaged}: "):
                read()
        assert used.row("source.tokens", 2).tolist() == SOURCE[2]  # of another shard


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_long_rows_are_gathered_as_short_ones(tmp_path_factory, lengths, random):
    folder = tmp_path_factory.mktemp("ragged")
    writer = RaggedWriter(lambda shard: folder / str(shard), np.dtype("<i2"), 7)
    writer.append(np.arange(sum(lengths)), np.array(lengths))
    written = writer.close()
    assert all(hasher.close() == file_hash(folder / name) for name, hasher in written.items())

    def blocks(path):
        return Blocks(path, written[path.name].size, bytes(written[path.name].digests))

    rows = [random.randrange(len(lengths)) for _ in range(30)]
    column = Ragged([(folder / str(shard), count) for shard, count in enumerate(writer.shards)], writer.dtype, blocks)
    with pytest.MonkeyPatch.context() as patch:
        found = [column.gather(rows)]
        patch.setattr(ragged, "LONG_ROW", 0)  # every row is long
        found.append(column.gather(rows))
    ends = np.cumsum(lengths)
    expected = [value for row in rows for value in range(ends[row] - lengths[row], ends[row])]
    for values, counts in found:
        assert values.tolist() == expected
        assert counts.tolist() == [lengths[row] for row in rows]


def test_a_file_that_shrinks_while_it_is_mapped_is_an_error_not_a_crash(tmp_path):
    write(tmp_path / "s")
    split = Store(tmp_path / "s").split("valid")
    split.row("source.tokens", 0)
    os.truncate(tmp_path / "s" / "valid-00000.source.tokens", 0)
    with pytest.raises(UserError, match=r"valid-00000.source.tokens: truncated"):
        split.row("source.tokens", 0)


def test_text_that_is_damaged_is_an_error(tmp_path):
    write(tmp_path / "s")
    (tmp_path / "s" / "valid-00000.target.text").write_bytes(b"5\n\xff 4 4 4\n")
    split = Store(tmp_path / "s").split("valid")
    for read in (lambda: split.lines("target.text"), lambda: split.lines("target.text", [1])):
        with pytest.raises(UserError, match=r"valid-00000.target.text: truncated or changed"):
            read()


def test_mappings_are_dropped_so_that_what_was_read_does_not_pile_up(tmp_path, monkeypatch):
    write(tmp_path / "s", source=SOURCE * 100, target=TARGET * 100, shard=3)
    monkeypatch.setattr(ragged, "MAPPED_FILES", 10)
    split = Store(tmp_path / "s").split("valid")
    descriptors, order = len(os.listdir("/proc/self/fd")), np.random.default_rng(0).permutation(300)
    ids, _ = split.gather("source.tokens", order)
    assert ids.tolist() == [token for i in order for token in SOURCE[i % 3]]
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 10
    monkeypatch.setattr(ragged, "MAPPED_ROWS", 20)
    mapped = []
    original = ragged._Mapping
    monkeypatch.setattr(ragged, "_Mapping", lambda *file: mapped.append(file) or original(*file))
    for _ in range(21):
        split.gather("target.tokens", [0, 1])
    assert len(mapped) == 2 * 2  # the two files once, and again after so many rows


def test_threads_may_read_at_the_same_time(tmp_path, monkeypatch):
    write(tmp_path / "s", source=SOURCE * 10, target=TARGET * 10, shard=7)
    monkeypatch.setattr(ragged, "MAPPED_ROWS", 3)
    monkeypatch.setattr(ragged, "MAPPED_FILES", 2)
    split = Store(tmp_path / "s").split("valid")

    def read(number: int) -> list[int]:
        return split.gather("source.tokens", [number % 30, (number * 7) % 30])[0].tolist()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(read, range(1000)))
    finally:
        sys.setswitchinterval(before)
    assert found == [SOURCE[n % 30 % 3] + SOURCE[n * 7 % 30 % 3] for n in range(1000)]


def test_a_split_travels_to_another_process_without_its_mappings(tmp_path):
    write(tmp_path / "s")
    split = Store(tmp_path / "s").split("valid")
    split.row("source.tokens", 0)
    assert pickle.loads(pickle.dumps(split)).row("source.tokens", 2).tolist() == SOURCE[2]


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
    with pytest.raises(UserError, match=r"valid-00000.source.tokens: truncated or changed"):
        store.verify()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 1}', ""])
def test_a_damaged_manifest_is_an_error_that_names_it(tmp_path, text):
    write(tmp_path / "s")
    (tmp_path / "s" / MANIFEST).write_text(text)
    with pytest.raises(UserError, match=MANIFEST):
        Store(tmp_path / "s")


def change_manifest(path, **changes):
    manifest = json.loads((path / MANIFEST).read_text()) | changes
    write_manifest(path, manifest)
    return manifest


def test_a_newer_format_and_a_wrong_digest_are_refused(tmp_path):
    write(tmp_path / "s")
    change_manifest(tmp_path / "s", target_language="fr")
    with pytest.raises(UserError, match="digest does not fit"):
        Store(tmp_path / "s")
    change_manifest(tmp_path / "s", format=99)
    with pytest.raises(UserError, match=r"manifest.json: format 99, this version \(\S+\) reads 2 and 3"):
        Store(tmp_path / "s")


@pytest.mark.parametrize(
    "change", [{"pairs": 4}, {"shards": [3]}, {"shards": [1, 2]}, {"shards": [2, 1, 0]}, {"corpora": []}]
)
def test_counts_that_do_not_fit_the_files_are_an_error_at_opening(tmp_path, change):
    splits = write(tmp_path / "s")["splits"]
    change_manifest(tmp_path / "s", splits={"valid": splits["valid"] | change})
    with pytest.raises(UserError, match="split 'valid': its counts do not fit its files"):
        Store(tmp_path / "s")


def test_several_stores_have_the_splits_the_languages_and_a_digest_of_all(tmp_path):
    digests = [
        write(tmp_path / "a", split="train")["digest"],
        write(tmp_path / "b")["digest"],
        write(tmp_path / "c", split="train", languages=("fr", "en"))["digest"],
    ]
    stores = Stores([tmp_path / name for name in "abc"])
    assert stores.splits == ["train", "valid"]
    assert (stores.source_language, stores.target_language) == ("de,fr", "en")
    assert (len(stores.split("train")), len(stores.split("valid"))) == (6, 3)
    assert stores.split("train").corpora == [("c", 0, 3, "de", "en", ()), ("c", 3, 6, "fr", "en", ())]
    assert stores.digest == hashlib.sha256("\n".join(digests).encode()).hexdigest()
    assert Stores([tmp_path / "a"]).digest == digests[0]
    assert Stores([tmp_path / "b", tmp_path / "a"]).digest != Stores([tmp_path / "a", tmp_path / "b"]).digest
    assert stores.tokenizers()["source"].encode("d a") == words().encode("d a")
    with pytest.raises(UserError, match=f"{tmp_path}/a, .*/c: no split 'test'; they have train, valid"):
        stores.split("test")
    flip_first_byte(tmp_path / "c" / "train-00001.source.tokens")
    with pytest.raises(UserError, match=r"c/train-00001.source.tokens: truncated or changed"):
        stores.verify()


def test_stores_of_different_tokenizers_are_not_one(tmp_path):
    write(tmp_path / "a")
    write(tmp_path / "b", tokenizer=words("a b c e"))
    with pytest.raises(
        UserError, match=f"{tmp_path}/b: .*differ from those of {tmp_path}/a; .*tokenizer_from={tmp_path}/a"
    ):
        Stores([tmp_path / "a", tmp_path / "b"])


def test_a_shard_is_closed_and_flushed_when_it_is_full(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    with StoreWriter(tmp_path / "s", False, 2) as writer:
        column = writer.column("train", tokens("source.tokens", 8))
        for count in (1, 2, 5):  # within a shard, over its end, over two ends
            column.append(np.arange(count), np.ones(count, int))
        assert [Path(path).name for path in flushed] == [
            f"train-{shard:05d}.source.tokens{ending}" for shard in range(4) for ending in ("", ".offsets")
        ]
        assert column.shards == [2, 2, 2, 2]
        names = {path.name for path in writer.folder.iterdir()}
        assert len(names) == 8  # no shard is begun before it has a row


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
    assert list(tmp_path.iterdir()) == []


def test_a_store_is_replaced_only_with_overwrite_and_kept_if_that_fails(tmp_path):
    write(tmp_path / "s")
    with pytest.raises(UserError, match="overwrite=true replaces it"):
        write(tmp_path / "s")
    with pytest.raises(ValueError, match="x"):
        write(tmp_path / "s", overwrite=True, fail=ValueError("x"), source=[[5], [5], [5]])
    assert Store(tmp_path / "s").split("valid").row("source.tokens", 0).tolist() == SOURCE[0]
    write(tmp_path / "s", overwrite=True, source=[[5], [5], [5]])
    assert Store(tmp_path / "s").split("valid").row("source.tokens", 0).tolist() == [5]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_the_old_store_survives_a_failed_rename(tmp_path, monkeypatch):
    write(tmp_path / "s")
    rename = os.rename

    def fails_once(source, target):
        if ".partial-" in str(source):
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
        with pytest.raises(UserError, match="not a store; choose another folder"):
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
                files[file] = {"size": size, "sha256": "0" * 64}
        for shard, last in ((50, SHARD), (51, 1000)):  # the last thousand pairs of a shard, the first of the next
            numbers = np.arange(last - 1000, last + 1)
            with open(tmp_path / "s" / f"train-{shard:05d}.{side}.tokens.offsets", "rb+") as file:
                file.seek(8 * numbers[0])
                file.write((TOKENS * numbers).astype(OFFSET).tobytes())
    columns = manifest["splits"]["train"]["columns"]
    columns = {name: facts for name, facts in columns.items() if facts["kind"] == "tokens"}
    counts = {"pairs": BILLION, "shards": shards, "columns": columns, "corpora": [{"name": "c", "kept": BILLION}]}
    manifest["splits"]["train"] |= counts
    for path in (tmp_path / "s").glob("*.text*"):
        path.unlink()
    (tmp_path / "s" / BLOCKS).write_bytes(b"".join(block_digests(tmp_path / "s" / name) for name in files))
    (size, sha256) = (tmp_path / "s" / BLOCKS).stat().st_size, file_hash(tmp_path / "s" / BLOCKS)
    manifest |= {"files": files, "other_files": {BLOCKS: {"size": size, "sha256": sha256}}}
    change_manifest(tmp_path / "s", **manifest | {"digest": digest(manifest)})
    return tmp_path / "s"


def block_digests(path):
    """SHA-256 of each block of a file, which is mostly holes."""
    size, zeros = path.stat().st_size, hashlib.sha256(bytes(BLOCK)).digest()
    digests = [zeros] * (size // BLOCK)
    with open(path, "rb") as file:
        place = 0
        while place < size:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:  # there is no more
                break
            if place < len(digests) * BLOCK:
                digests[place // BLOCK] = hashlib.sha256(os.pread(file.fileno(), BLOCK, place)).digest()
            place += BLOCK
        rest = os.pread(file.fileno(), BLOCK, len(digests) * BLOCK)
    return b"".join([*digests, *([hashlib.sha256(rest).digest()] if rest else [])])


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
    assert (split.longest("source.tokens"), split.longest("target.tokens")) == (3, 4)
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
    for side in ("source", "target"):
        lengths = split.lengths(f"{side}.tokens", first - 1000, first + 500)
        assert lengths.dtype == np.int32
        assert lengths.tolist() == [TOKENS] * 1500
    assert read == [(SHARD - 1000, 1001), (0, 501)] * 2
    ids, lengths = split.gather("source.tokens", [first - 1, first, first - 1000])
    assert (lengths.tolist(), ids.tolist()) == ([TOKENS] * 3, [0] * 3 * TOKENS)
    shards = {name.partition(".")[0] for name in opened if "tokens" in name}
    assert shards == {"train-00050", "train-00051"}
