"""Lines of files and streams: whatever the blocks they come in, as they come, and none longer than allowed."""

import gzip
import lzma
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from s2s.data import lines as files
from s2s.data.lines import LineReader
from s2s.errors import UserError

PACK = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lines")


@given(
    data=st.lists(st.sampled_from([b"\n", b"a", b"bc" * 9, b"\r\n", b"\xff", b"\x00"])).map(b"".join),
    block=st.integers(1, 40),
    how=st.sampled_from(["read", "take", "arrived"]),
    size=st.integers(1, 50),
    ending=st.sampled_from(list(PACK)),
)
def test_lines_are_those_of_the_file_whatever_the_blocks(folder, data, block, how, size, ending):
    path = folder / f"file{ending}"
    path.write_bytes(PACK[ending](data))
    with pytest.MonkeyPatch.context() as patch, closing(LineReader(path)) as reader:
        patch.setattr(files, "BLOCK_BYTES", block)
        read = {"read": reader.read, "take": reader.take, "arrived": lambda n: reader.arrived(3, n, 0)}[how]
        found = []
        while lines := read(size):
            found += lines
            assert reader.line == len(found)
            assert {"read": True, "take": len(lines) <= size, "arrived": len(lines) <= 3}[how]
            assert how == "take" or sum(map(len, lines[:-1])) < size
    *whole, rest = data.split(b"\n")
    assert found == [line + b"\n" for line in whole] + [rest] * bool(rest)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1),
    most=st.integers(1, 20),
    block=st.integers(1, 40),
    feed=st.booleans(),
)
def test_a_line_that_is_too_long_is_named_or_cut(folder, lengths, most, block, feed):
    path = folder / "long"
    path.write_bytes(b"\n".join(b"x" * length for length in lengths) + b"\n" * feed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "BLOCK_BYTES", block)
        with closing(LineReader(path, most, cut=True)) as reader:
            found = [line.rstrip(b"\n") for line in reader.read(sys.maxsize)]
        expected = [b"x" * min(length, most + 1) for length in lengths]
        assert found == (expected if feed or lengths[-1] else expected[:-1])
        with closing(LineReader(path, most)) as reader:
            if max(lengths) <= most:
                assert reader.count() == len(found)
                return
            number = 1 + next(place for place, length in enumerate(lengths) if length > most)
            message = f"{path}:{number}: the line is longer than max_line_bytes={most} allows"
            with pytest.raises(UserError, match=re.escape(message)):
                reader.count()


def test_what_has_come_is_not_kept_waiting_for_more(folder):
    read, write = os.pipe()
    with closing(LineReader(f"/dev/fd/{read}")) as reader:
        os.close(read)
        os.write(write, b"one\ntwo\nthr")
        assert reader.arrived(100, 1000, 0.01) == [b"one\n", b"two\n"]
        start = time.perf_counter()
        threading.Timer(0.05, os.write, (write, b"ee\nfour\n")).start()
        assert reader.arrived(100, 1000, 0) == [b"three\n", b"four\n"]  # which it waits for: there is no line yet
        assert time.perf_counter() - start > 0.04
        os.write(write, b"five\n")
        threading.Timer(0.05, os.write, (write, b"six\n")).start()
        assert reader.arrived(100, 1000, 0.5)[0] == b"five\n"
        os.write(write, b"".join(b"%d\n" % i for i in range(1000)))
        assert len(reader.arrived(100, 10_000, 0)) == 100
        assert len(b"".join(reader.arrived(1000, 50, 0))) == 52  # up to 50 bytes, and one line more
        os.close(write)
        assert len(reader.take(10_000)) > 800
        assert reader.arrived(100, 1000, 10) == []


def test_a_stream_that_does_not_block_is_read_to_its_end():
    read, write = os.pipe()
    os.set_blocking(read, False)
    with closing(LineReader(f"/dev/fd/{read}")) as reader:
        os.close(read)
        threading.Timer(0.05, lambda: (os.write(write, b"late\n"), os.close(write))).start()
        assert reader.take(5) == [b"late\n"]


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_small_file_that_becomes_one_huge_line_takes_little_memory(tmp_path, ending):
    """32 MB (of .zst: 256 MB) from some kilobytes."""
    size = 256_000_000 if ending == ".zst" else 32_000_000
    (tmp_path / f"bomb{ending}").write_bytes(PACK[ending](b"x" * size))
    program = f"""
import resource, sys
from s2s.data.lines import LineReader
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for cut in (False, True):
    try:
        print([len(line) for line in LineReader("bomb{ending}", cut=cut).take(3)])
    except Exception as error:
        print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    named, cut, megabytes = done.stdout.splitlines()
    assert named == f"bomb{ending}:1: the line is longer than max_line_bytes=1000000 allows"
    assert cut == "[1000001]"
    assert int(megabytes) < 100
