"""s2s-generate at a terminal: a prompt, and each answer on a line of its own; a bar where a file is decoded."""

import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl

import pytest


@pytest.fixture
def terminal():
    """terminal("s2s_cli.generate", *words) starts a command on a terminal of 80 columns: (file descriptor, process)."""
    started = []

    def start(module, *words):
        there, here = pty.openpty()
        ioctl(here, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)], stdin=here, stdout=here, stderr=here
        )
        os.close(here)
        started.append((there, process))
        return there, process

    yield start
    for there, process in started:
        process.kill()
        process.wait()
        os.close(there)


def until(there, text: str, seconds: float = 60) -> str:
    """What the terminal shows until this text comes."""
    shown, deadline = "", time.monotonic() + seconds
    while text not in shown:
        assert time.monotonic() < deadline, shown
        if select.select([there], [], [], 0.1)[0]:
            try:
                shown += os.read(there, 65536).decode()
            except OSError:  # the command has ended
                break
    return shown.replace("\r\n", "\n")


def test_what_is_typed_is_answered_below_and_prompted_again(runs, lines, terminal, generate):
    expected = generate(f"checkpoint={runs[0]}", stdin="\n".join(lines[:2]).encode())[1].splitlines()
    there, process = terminal("s2s_cli.generate", f"checkpoint={runs[0]}", "device=cpu")
    assert until(there, "> ").endswith("reading lines from the terminal; Ctrl-D ends\n> ")
    for line, answer in zip(lines[:2], expected, strict=True):
        os.write(there, f"{line}\n".encode())
        assert until(there, "\n> ") == f"{line}\n{answer}\n> "
    os.write(there, b"\x04")
    assert re.match(r"\n2 sentences, \d+ tokens, ", until(there, "sentences/s"))
    assert process.wait(30) == 0


def test_a_file_has_a_bar_that_fits_the_terminal(runs, store, terminal, tmp_path):
    output = tmp_path / "hyp"
    there, _ = terminal("s2s_cli.generate", f"checkpoint={runs[0]}", f"input={store.parent / 'test.src'}",
                        f"output={output}", "device=cpu")  # fmt: skip
    shown = until(there, "sentences/s")
    bars = [part for part in re.split(r"[\r\n]", shown) if "%|" in part]
    assert re.search(r"100%\|█+\| 10/10 sentences, [\d,]+ tokens/s, 00:00 left", bars[-1])
    assert max(map(len, bars)) <= 80
