"""Reading raw parallel text: any packing gives the same pairs, any mistake its file and line."""

import gzip
import lzma
import os
import re
import sys
import threading

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from s2s.data import corpus as corpora
from s2s.data import lines as files
from s2s.data.corpus import Corpus
from s2s.data.lines import decode_lines
from s2s.errors import UserError

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}
SOURCE = [f"Zeile {i} äöü" for i in range(50)]
TARGET = [f"line {i}" for i in range(50)]


def write(folder, name, lines, ending=""):
    data = "".join(f"{line}\n" for line in lines).encode()
    (folder / f"{name}{ending}").write_bytes(PACK[ending](data))


def pairs(corpus: Corpus) -> list[tuple[str, str]]:
    return [pair for chunk in corpus.chunks() for pair in zip(*chunk.lines(), strict=True)]


def find(folder, name="c") -> Corpus:
    return Corpus.find(str(folder / name), ["de", "en"])


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(corpora, "CHUNK_BYTES", 64)
    monkeypatch.setattr(files, "BLOCK_BYTES", 100)
    monkeypatch.setattr(files, "ZSTD_FEED_BYTES", 16)


@pytest.mark.parametrize("source", PACK)
@pytest.mark.parametrize("target", PACK)
def test_every_compression_on_either_side_gives_the_same_pairs(tmp_path, small_chunks, source, target):
    write(tmp_path, "c.de", SOURCE, source)
    write(tmp_path, "c.en", TARGET, target)
    assert pairs(find(tmp_path)) == list(zip(SOURCE, TARGET, strict=True))


@pytest.mark.parametrize("ending", PACK)
def test_tsv_gives_the_same_pairs(tmp_path, small_chunks, ending):
    write(tmp_path, "c.tsv", [f"{s}\t{t}" for s, t in zip(SOURCE, TARGET, strict=True)], ending)
    assert pairs(find(tmp_path, f"c.tsv{ending}")) == list(zip(SOURCE, TARGET, strict=True))


def test_zstd_and_gzip_of_several_frames_are_read_to_the_end(tmp_path, small_chunks):
    for side, lines, ending in (("de", SOURCE, ".zst"), ("en", TARGET, ".gz")):
        parts = [PACK[ending](f"{line}\n".encode()) for line in lines]
        (tmp_path / f"c.{side}{ending}").write_bytes(b"".join(parts))
    assert pairs(find(tmp_path)) == list(zip(SOURCE, TARGET, strict=True))


@settings(max_examples=200)
@given(lines=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n")), min_size=1))
def test_only_a_line_feed_ends_a_line_and_one_carriage_return_before_it_goes(lines):
    expected = [line.removesuffix("\r") for line in lines]
    assert decode_lines("".join(f"{line}\n" for line in lines).encode(), "f", 1) == expected
    assert decode_lines("".join(f"{line.rstrip(chr(13))}\r\n" for line in lines).encode(), "f", 1) == [
        line.rstrip("\r") for line in lines
    ]


def test_unicode_separators_and_form_feeds_do_not_shift_lines(tmp_path):
    write(tmp_path, "c.de", ["a\u2028b", "c\x0cd\x85e", "f\rg"])
    write(tmp_path, "c.en", ["1", "2", "3"])
    assert pairs(find(tmp_path)) == [("a\u2028b", "1"), ("c\x0cd\x85e", "2"), ("f\rg", "3")]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, small_chunks):
    write(tmp_path, "c.de", ["\ufeffeins", "\ufeffzwei", *SOURCE])
    write(tmp_path, "c.en", ["\ufeffone", "two", *TARGET])
    assert pairs(find(tmp_path))[:2] == [("eins", "one"), ("\ufeffzwei", "two")]


def test_a_last_line_without_line_feed_counts(tmp_path):
    (tmp_path / "c.de").write_bytes(b"a\nb")
    (tmp_path / "c.en").write_bytes(b"1\n2\n")
    assert pairs(find(tmp_path)) == [("a", "1"), ("b", "2")]


def test_chunks_cover_the_file_and_say_how_much_of_it_was_read(tmp_path, small_chunks):
    write(tmp_path, "c.de", SOURCE)
    write(tmp_path, "c.en", TARGET)
    chunks = list(find(tmp_path).chunks())
    assert len(chunks) > 5
    assert sum(chunk.read for chunk in chunks) == find(tmp_path).size
    assert [chunk.first_line for chunk in chunks[:2]] == [1, 1 + chunks[0].parts[0].count(b"\n")]


def feed(path, data: bytes) -> None:
    """Fill a named pipe, as another process would."""
    os.mkfifo(path)
    threading.Thread(target=path.write_bytes, args=(data,), daemon=True).start()


@pytest.mark.parametrize("ending", PACK)
def test_named_pipes_give_the_same_pairs(tmp_path, small_chunks, ending):
    for side, lines in (("de", SOURCE), ("en", TARGET)):
        feed(tmp_path / f"c.{side}{ending}", PACK[ending]("".join(f"{line}\n" for line in lines).encode()))
    corpus = find(tmp_path)
    assert corpus.is_stream
    assert corpus.size is None
    assert pairs(corpus) == list(zip(SOURCE, TARGET, strict=True))


TSV = "".join(f"{s}\t{t}\n" for s, t in zip(SOURCE, TARGET, strict=True)).encode()


@pytest.mark.parametrize("name", ["c.tsv", "63"])
def test_a_pipe_of_any_name_is_tsv(tmp_path, small_chunks, name):
    feed(tmp_path / name, TSV)
    chunks = list(find(tmp_path, name).chunks())
    assert [pair for chunk in chunks for pair in zip(*chunk.lines(), strict=True)] == list(
        zip(SOURCE, TARGET, strict=True)
    )
    assert sum(chunk.read for chunk in chunks) == len(TSV)


def test_one_side_may_be_a_file_and_the_other_a_pipe(tmp_path):
    write(tmp_path, "c.de", SOURCE)
    feed(tmp_path / "c.en", "".join(f"{line}\n" for line in TARGET).encode())
    corpus = find(tmp_path)
    assert corpus.is_stream
    assert pairs(corpus) == list(zip(SOURCE, TARGET, strict=True))
    write(tmp_path, "d.de", SOURCE)
    write(tmp_path, "d.en", TARGET)
    assert not find(tmp_path, "d").is_stream


@pytest.mark.parametrize(("source", "target"), [(50, 20), (20, 50)])
def test_unequal_pipes_are_an_error_with_both_counts(tmp_path, small_chunks, source, target):
    for side, lines in (("de", SOURCE[:source]), ("en", TARGET[:target])):
        feed(tmp_path / f"c.{side}", "".join(f"{line}\n" for line in lines).encode())
    with pytest.raises(UserError, match=f"c.de has {source}, .*c.en has {target}$"):
        pairs(find(tmp_path))


def test_standard_input_that_is_closed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="standard input is closed"):
        Corpus.find("-", ["de", "en"])


@pytest.mark.parametrize(("source", "target"), [(50, 49), (49, 50), (50, 3), (3, 50), (0, 1), (1, 0)])
def test_unequal_sides_are_an_error_with_both_counts(tmp_path, small_chunks, source, target):
    write(tmp_path, "c.de", SOURCE[:source])
    write(tmp_path, "c.en", TARGET[:target], ".gz")
    shorter = f"c.de:{source}:" if source < target else f"c.en.gz:{target}:"
    with pytest.raises(UserError, match=f"{shorter} .*c.de has {source}, .*c.en.gz has {target}$"):
        pairs(find(tmp_path))


@pytest.mark.parametrize("present", ["de", "en", ""])
def test_a_missing_side_is_an_error_that_names_it(tmp_path, present):
    if present:
        write(tmp_path, f"c.{present}", SOURCE)
    missing = " and ".join(f"{tmp_path}/c.{side}" for side in ("de", "en") if side != present)
    with pytest.raises(UserError, match=f"^{missing}: no such file"):
        find(tmp_path)


def test_a_missing_tsv_is_an_error_that_names_it(tmp_path):
    with pytest.raises(UserError, match=r"c.tsv.gz: no such file"):
        find(tmp_path, "c.tsv.gz")


@pytest.mark.parametrize("line", [1, 17, 50])
def test_invalid_utf8_is_an_error_with_file_and_line(tmp_path, small_chunks, line):
    data = [line.encode() for line in SOURCE]
    data[line - 1] = b"ab\xff"
    (tmp_path / "c.de").write_bytes(b"\n".join(data) + b"\n")
    write(tmp_path, "c.en", TARGET)
    with pytest.raises(UserError, match=f"c.de:{line}: invalid UTF-8: byte 0xff at byte 3 of the line"):
        pairs(find(tmp_path))


@pytest.mark.parametrize(("row", "columns"), [("alone", 1), ("a\tb\tc", 3), ("", 1)])
def test_a_row_without_two_columns_is_an_error_with_file_and_line(tmp_path, small_chunks, row, columns):
    rows = [f"{s}\t{t}" for s, t in zip(SOURCE, TARGET, strict=True)]
    rows[30] = row
    write(tmp_path, "c.tsv", rows)
    with pytest.raises(UserError, match=f"c.tsv:31: a row must have two columns.*it has {columns}"):
        pairs(find(tmp_path, "c.tsv"))


@pytest.mark.parametrize("ending", PACK)
def test_an_empty_corpus_is_an_error_that_names_the_file(tmp_path, ending):
    write(tmp_path, "c.de", [], ending)
    write(tmp_path, "c.en", [], ending)
    with pytest.raises(UserError, match=re.escape(f"c.de{ending}:1: the corpus is empty")):
        pairs(find(tmp_path))


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("lost", [1, 40])
def test_a_truncated_compressed_file_is_an_error_that_names_it(tmp_path, ending, lost):
    for side, lines in (("de", SOURCE), ("en", TARGET)):
        write(tmp_path, f"c.{side}", lines, ending)
    path = tmp_path / f"c.en{ending}"
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(UserError, match=re.escape(f"c.en{ending}:") + r"\d+: the compressed file is truncated"):
        pairs(find(tmp_path))


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_file_that_is_not_compressed_as_its_name_says_is_an_error(tmp_path, ending):
    write(tmp_path, "c.en", TARGET)
    (tmp_path / f"c.de{ending}").write_bytes("\n".join(SOURCE).encode())
    with pytest.raises(UserError, match=re.escape(f"c.de{ending}:1: the compressed file is damaged")):
        pairs(find(tmp_path))
