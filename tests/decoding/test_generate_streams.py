"""s2s-generate on streams: a pipe is read once, wherever a file may stand, and answered as it comes."""

import contextlib
import os
import pty
import re
import select
import threading
import time

import pytest

from tests.decoding.generating import fails


@pytest.fixture
def terminal(monkeypatch):
    """terminal() makes standard error a terminal; returns what has been shown on it, at the end."""
    shown = []

    def make():
        master, slave = pty.openpty()
        file = os.fdopen(slave, "w")
        monkeypatch.setattr("sys.stderr", file)

        def read() -> None:
            with contextlib.suppress(OSError):
                while block := os.read(master, 4096):
                    shown.append(block)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()

        def end() -> str:
            file.close()
            thread.join(10)
            return b"".join(shown).decode()

        return end

    return make


@pytest.fixture
def text(store):
    return (store.parent / "test.src").read_text()


@pytest.mark.parametrize("on_terminal", [False, True])
@pytest.mark.parametrize("key", ["", "prefix", "constraints", "target"])
def test_a_pipe_gives_the_lines_of_a_file(generate, runs, store, text, tmp_path, pipe, terminal, key, on_terminal):
    source, beside, output = tmp_path / "source", "a\nb c\n" * 5, tmp_path / "hyp"
    source.write_text(text)
    (tmp_path / "beside").write_text(beside)
    words = [f"checkpoint={runs[0]}", *["mode=score"] * (key == "target")]
    expected = generate(*words, f"input={source}", *[f"{key}={tmp_path}/beside"] * bool(key))[1]
    assert expected.count("\n") == 10
    output.write_text("precious")
    for one, other in ((f"input={pipe(text)}", tmp_path / "beside"), (f"input={pipe(text)}", pipe(beside)),
                       (f"input={source}", pipe(beside)), (f"store={store}", pipe(beside)), ("input=-", pipe(beside)),
                       ("input=/dev/stdin", pipe(beside))):  # fmt: skip
        end = terminal() if on_terminal else None
        code, _, error = generate(*words, one, *[f"{key}={other}"] * bool(key), f"output={output}", stdin=text.encode())
        error = end() if on_terminal else error
        assert code == 0, error
        assert "10 sentences, " in error
        assert output.read_text() == expected
        if not key and "pipe" not in one:
            break


@pytest.mark.parametrize("count", [9, 11])
@pytest.mark.parametrize("key", ["prefix", "constraints"])
def test_counts_of_streams_are_compared_at_the_end(generate, runs, store, text, tmp_path, pipe, key, count):
    output = tmp_path / "hyp"
    words = f"checkpoint={runs[0]}", "decode.buffer=4", f"output={output}"
    for source in (f"store={store}", f"input={pipe(text)}", f"input={store.parent}/test.src"):
        beside = pipe(b"a\n" * count)
        result = generate(*words, source, f"{key}={beside}")
        has = f"has 10 lines and {beside} has more" if count == 11 else f"has more and {beside} has 9 lines"
        fails(result, has, "line N of one belongs to line N of the other")
        assert not output.exists()


def test_a_stream_that_is_named_twice_is_refused(generate, runs, tmp_path, pipe):
    checkpoint, twice = f"checkpoint={runs[0]}", pipe(b"a\n")
    message = "given twice, but a stream can be read only once"
    fails(generate(checkpoint, f"input={twice}", f"prefix={twice}"), twice, message)
    fails(generate(checkpoint, "prefix=-", stdin=b"a\n"), "-: ", message)
    fails(generate(checkpoint, "decode.forbidden=/dev/stdin", stdin=b"a\n"), "/dev/stdin: ", message)


def test_lists_of_what_may_be_said_come_from_pipes(generate, runs, text, pipe):
    checkpoint = f"checkpoint={runs[0]}"
    printed = generate(checkpoint, f"decode.allowed={pipe(b'd e f')}", stdin=text.encode())[1]
    assert set(printed.splitlines()) == {"d e f"}
    most = max(words := generate(checkpoint, stdin=text.encode())[1].split(), key=words.count)
    printed = generate(checkpoint, f"decode.forbidden={pipe(most)}", stdin=text.encode())[1]
    assert most not in printed.split()
    assert printed.count("\n") == 10


@pytest.mark.parametrize("on_terminal", [False, True])
def test_a_program_that_waits_for_its_answer_gets_it(s2s, runs, terminal, on_terminal):
    """It writes a line, or two, and waits; the reader of its answers is a pipe too."""
    (source, ask), (answers, output) = os.pipe(), os.pipe()
    shown = terminal() if on_terminal else None
    found = []

    def talk() -> None:
        for lines in (b"a b\n", b"c\nd e f\n", b"\n", b"g h"):
            os.write(ask, lines)
            if not lines.endswith(b"\n"):
                break
            got, end = b"", time.monotonic() + 30
            while got.count(b"\n") < lines.count(b"\n") and time.monotonic() < end:
                if select.select([answers], [], [], 1)[0]:
                    got += os.read(answers, 4096)
            found.append(got)
        os.close(ask)

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        assert s2s("generate", f"checkpoint={runs[0]}", f"input=/dev/fd/{source}", f"output=/dev/fd/{output}",
                   "device=cpu") == 0  # fmt: skip
    finally:
        for number in (source, output):
            os.close(number)
    thread.join(30)
    assert [got.count(b"\n") for got in found] == [1, 2, 1]
    assert found[2] == b"\n"
    assert os.read(answers, 4096).count(b"\n") == 1  # of the last line, which no line feed ends
    os.close(answers)
    if on_terminal:
        assert "5 sentences, " in shown()


def test_what_comes_in_bulk_is_decoded_together(generate, runs, text, pipe, monkeypatch):
    from s2s.decoding.generator import Generator

    sizes, decode = [], Generator.generate

    def counted(self, sources, *words, **options):
        sizes.append(len(sources))
        return decode(self, sources, *words, **options)

    monkeypatch.setattr(Generator, "generate", counted)
    assert generate(f"checkpoint={runs[0]}", f"input={pipe(text * 20)}", "decode.beam_size=1")[0] == 0
    assert generate(f"checkpoint={runs[0]}", "decode.beam_size=1", stdin=text.encode() * 20)[0] == 0
    assert sizes == [200, 200]
    sizes.clear()
    assert generate(f"checkpoint={runs[0]}", "decode.beam_size=1", "decode.buffer=64", stdin=text.encode() * 20)[0] == 0
    assert sizes == [64, 64, 64, 8]


def test_a_reader_that_leaves_ends_the_command_as_sigpipe_does(s2s, runs, text, pipe, capsys):
    answers, output = os.pipe()
    threading.Timer(0.2, os.close, (answers,)).start()
    code = s2s("generate", f"checkpoint={runs[0]}", f"input={pipe(text * 200)}", f"output=/dev/fd/{output}",
               "device=cpu", "decode.buffer=10")  # fmt: skip
    os.close(output)
    assert code == 141
    assert capsys.readouterr() == ("", "")


def test_results_go_wherever_a_stream_is_named(generate, runs, text, tmp_path):
    expected = generate(f"checkpoint={runs[0]}", stdin=text.encode())[1]
    assert generate(f"checkpoint={runs[0]}", "output=-", stdin=text.encode())[1] == expected
    with open(tmp_path / "hyp", "wb") as file:
        file.write(b"before\n")
        file.flush()
        words = f"checkpoint={runs[0]}", f"output=/dev/fd/{file.fileno()}"
        assert generate(*words, stdin=text.encode())[:2] == (0, "")
        assert generate(*words, stdin=text.encode())[:2] == (0, "")
    assert (tmp_path / "hyp").read_text() == "before\n" + 2 * expected


def test_a_terminal_is_answered_at_each_line(s2s, runs, monkeypatch, capsys):
    master, slave = pty.openpty()
    kept = os.dup(0)
    os.dup2(slave, 0)
    answers, output = os.pipe()
    got = []

    def type_lines() -> None:
        for line in (b"a b\n", b"c d\n"):
            os.write(master, line)
            if select.select([answers], [], [], 30)[0]:
                got.append(os.read(answers, 4096))
        os.write(master, b"\x04")

    thread = threading.Thread(target=type_lines, daemon=True)
    thread.start()
    try:
        assert s2s("generate", f"checkpoint={runs[0]}", f"output=/dev/fd/{output}", "device=cpu") == 0
    finally:
        os.dup2(kept, 0)
        for number in (kept, slave, output, answers):
            os.close(number)
    thread.join(30)
    os.close(master)
    assert [answer.count(b"\n") for answer in got] == [1, 1]
    error = capsys.readouterr().err
    assert error.startswith("reading lines from the terminal; Ctrl-D ends\n")
    assert re.search(r"^2 sentences, ", error, re.MULTILINE)
