"""Trainings in several processes: started as users start them, or by a server that has imported everything."""

import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training import disturbed
from tests.training.test_resume import words

MODULES = ["s2s_cli.train", "s2s.training.run", "torch.distributed.checkpoint", "torch.distributed.fsdp",
           "torch.utils.tensorboard"]  # fmt: skip

# What each process does before it trains; `rank` says which one it is, `updates` counts the batches that it has seen.
PRELUDE = """
import os, signal, sys, time
from pathlib import Path
from s2s.criterions.criterion import Criterion
from s2s.errors import Failure, UserError

rank, updates, plain = int(os.environ.get("RANK", 0)), 0, Criterion.__call__

def criterion(self, model, batch, totals=None):
    global updates
    updates += model.training
    loss = plain(self, model, batch, totals)
    if model.training:
        trouble(loss)
    return loss

Criterion.__call__ = criterion
"""


def troubled(body: str | None, before: str = "") -> str:
    """A script of PRELUDE, `before`, and of `trouble`, a function of the loss that has this body."""
    lines = (body or "").strip().splitlines()
    trouble = "def trouble(loss):\n" + "".join(f"    {line}\n" for line in lines)
    return f"{PRELUDE}{before}\n{trouble}" if lines else before


class Together:
    """The processes of a training, each in the environment that torchrun makes, started in a second instead of several.

    Args:
        folder: For what they say.
        processes: How many.
        argv: The words of the command.
        script: What each does before.
        command: The command.
    """

    def __init__(self, folder: Path, processes: int, argv: list[str], script: str, command: str = "train"):
        import torch.distributed as dist

        self._store = dist.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(MODULES)
        self._said = folder / f"said.{self._store.port}"
        places = [(rank, processes, self._store.port, [*map(str, argv)], script, str(self._said), command)
                  for rank in range(processes)]  # fmt: skip
        self.processes = [context.Process(target=_run, args=place) for place in places]
        for process in self.processes:
            process.start()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait; returns what they have written to standard output, which is nothing, and to standard error."""
        for process in self.processes:
            process.join(timeout)
        return "", self._said.read_text()

    def poll(self) -> int | None:
        return self.returncode

    @property
    def returncode(self) -> int | None:
        """The exit code of the first that has one other than 0; None while one runs."""
        codes = [process.exitcode for process in self.processes]
        return None if None in codes else next(filter(None, codes), 0)

    def kill(self) -> None:
        for process in self.processes:
            process.kill()


def _run(rank: int, size: int, port: int, argv: list[str], script: str, said: str, command: str) -> None:
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank), MASTER_ADDR="localhost",
                      MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")  # fmt: skip
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    import torch

    torch.set_num_threads(1)
    sys.argv = [f"s2s-{command}", *argv]
    exec(compile(script, "script", "exec"), {})
    importlib.import_module(f"s2s_cli.{command}").main()


@pytest.fixture
def together(tmp_path):
    """together(2, store, run, ...) trains in two processes; with `trouble`, the body of a function of the loss, they
    call it at each batch. Returns something like a Popen."""
    running = []

    def start(processes: int, store, run, *options, trouble: str | None = None, before: str = "") -> Together:
        running.append(Together(tmp_path, processes, words(store, run, *options), troubled(trouble, before)))
        return running[-1]

    yield start
    for one in running:
        one.kill()
        one.communicate()


@pytest.fixture
def launch(tmp_path, spawn):
    """As `together`, by the launcher of s2s-train; returns its Popen."""
    running = []

    def start(processes: int, store, run, *options, trouble: str | None = None) -> subprocess.Popen:
        if trouble is None:
            return spawn("train", *words(store, run, f"distributed.processes={processes}", *options))
        (tmp_path / "troubled.py").write_text(troubled(trouble) + "from s2s_cli.train import main\nmain()\n")
        code = "import sys; from s2s.training.distributed import launch; "
        code += f"sys.exit(launch({processes}, 'troubled', sys.argv[1:]))"
        paths = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        running.append(
            subprocess.Popen(
                [sys.executable, "-c", code, *words(store, run, *options)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
            )
        )  # fmt: skip
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def signalled(tmp_path):
    """signalled(number, update, store=..., ...) runs s2s-train in a process of its own, which waits in this update for
    the signal of this number. Returns its exit code and what it has said."""
    running = []

    def run(number: int, update: int, *words: str) -> tuple[int, str]:
        here, go = tmp_path / "here", tmp_path / "go"
        wait = f"if updates == {update}: Path({str(here)!r}).touch()\n"
        wait += f"while updates == {update} and not Path({str(go)!r}).exists(): time.sleep(0.005)"
        script = troubled(wait) + "from s2s_cli.train import main\nmain()\n"
        process = subprocess.Popen([sys.executable, "-c", script, *map(str, words)], stderr=subprocess.PIPE, text=True)
        running.append(process)
        while process.poll() is None and not here.exists():
            time.sleep(0.005)
        process.send_signal(number)
        go.touch()
        return process.wait(300), process.stderr.read()

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def whole(store, tmp_path, s2s) -> Path:
    """The undisturbed run."""
    assert s2s("train", *disturbed.words(store, tmp_path / "whole")) == 0
    return tmp_path / "whole"
