"""What `test_operations` runs in a process with failing.c preloaded: a command again and again, each time in a fresh
child in which another file operation fails; a child without failures tries the same again.

    python -m tests.faults.operations LIBRARY WORK SHARE ERROR COMMAND ...

The command writes below WORK/place, which begins as a copy of WORK/before. `{place}` in its words is that folder. A
line is printed for each thing that was not as it should be, and one of figures at the end.
"""

import ctypes
import errno
import importlib
import os
import random
import shutil
import sys
import traceback
from pathlib import Path

from s2s.checkpoint import runs
from s2s.data.store import Store
from s2s.errors import UserError
from s2s.files import file_hash

MODULES = ["s2s.audio.waveform", "s2s.data.preprocess", "s2s.data.speech_preprocess", "s2s.data.picture",
           "s2s.interop.ctranslate2", "s2s.tasks.speech", "s2s.tasks.translation", "s2s.training.run",
           "s2s.training.average", "s2s.text.characters"]  # fmt: skip
MOST = 2000  # operations of a command
SEED = 12


class Trial:
    """A command whose file operations fail.

    Args:
        library: failing.c, preloaded.
        work: Its folder.
        code: The error.
        words: The command's.
    """

    def __init__(self, library: str, work: Path, code: int, words: list[str]):
        self.failing, self.work, self.code = ctypes.CDLL(library), work, code
        self.place = work / "place"
        self.words = [word.replace("{place}", str(self.place)) for word in words]
        self.before = contents(work / "before")
        self.right: str | None = None  # of a training: its last weights

    def weights(self) -> str | None:
        file = self.place / "run/last/model.safetensors"
        return file_hash(file) if file.exists() else None

    def begin(self) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.work / "before", self.place, symlinks=True)

    def run(self, moment: int) -> tuple[int, str, int, list[str]]:
        """Let operation number `moment` fail; MOST: none. Returns exit code, standard error, operations, failures."""
        said, told = self.work / "said", self.work / "failures"
        for path in (said, told, self.work / "count"):
            path.unlink(missing_ok=True)
        child = os.fork()
        if not child:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            self.failing.failing_arm(f"{self.place}/".encode(), moment, self.code, self.code == errno.ENOSPC,
                                     str(told).encode())  # fmt: skip
            code = command(self.words)
            count = self.failing.failing_count()
            self.failing.failing_arm(b"", 0, 0, 0, os.devnull.encode())
            (self.work / "count").write_text(str(count))
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        count = (self.work / "count").read_text() if (self.work / "count").exists() else "0"
        failures = told.read_text().splitlines() if told.exists() else []
        return os.waitstatus_to_exitcode(status), said.read_text(), int(count), failures

    def wrong(self, moment: int) -> str:
        """What is not as it should be when this operation fails; nothing: all is."""
        self.begin()
        code, said, _, failures = self.run(moment)
        if not failures:
            return f"nothing failed, and the exit code is {code}: {said}" if code else ""
        if "Traceback" in said or code not in (0, 1, 2):
            return f"exit code {code}: {said}"
        if code and str(self.place) not in said:
            return f"the message names no file: {said}"
        if complaint := self.damage(code, said):
            return complaint
        code, said, _, _ = self.run(MOST)
        if code or "Traceback" in said:
            return f"the next try ends with {code}: {said}"
        if self.weights() != self.right:
            return f"the next try ends with other weights: {said}"
        return self.damage(0, "")

    def damage(self, code: int, said: str) -> str:
        """What is damaged, lost or left behind after the command."""
        hidden = list(self.place.rglob(".*"))
        for left in hidden:
            if left.parent not in hidden and str(left) not in said:
                return f"{left} is left behind, and nothing names it: {said}"
        for path in self.place.rglob("[!.]*"):
            if any(folder in hidden for folder in path.parents):
                continue
            try:
                if path.name == "blocks.sha256":
                    Store(path.parent).verify()
                if path.name == "model.safetensors":
                    runs.verify(path.parent)
            except UserError as error:
                return f"{error}: {said}"
        if self.words[0] == "train":
            newest = [max(map(runs.update_of, runs.steps(folder / "run")))
                      for folder in (self.work / "before", self.place)]  # fmt: skip
            return f"the newest checkpoint is lost: {said}" if newest[1] < newest[0] else ""
        after = contents(self.place)
        if "the store is complete, but its report.png could not be drawn" in said:
            after["store/report.png"] = ""
        lost = [name for name in self.before if name not in after]
        changed = [name for name, was in self.before.items() if after.get(name) != was]
        if code and changed and "the store is complete" not in said:
            return f"the command fails, and {', '.join(changed[:3])} is another one: {said}"
        return f"{', '.join(lost[:3])} is lost: {said}" if lost else ""


def contents(folder: Path) -> dict[str, str]:
    """The hashes of all files that are not hidden, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    names = {path.relative_to(folder): path for path in paths}
    return {str(name): file_hash(path) for name, path in names.items() if not str(name).startswith(".")}


def command(words: list[str]) -> int:
    """Run a command in this process; its exit code."""
    sys.argv = [f"s2s-{words[0]}", *words[1:]]
    try:
        importlib.import_module(f"s2s_cli.{words[0]}").main()
    except SystemExit as end:
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 99
    return 0


def main() -> None:
    library, work, share, error, *words = sys.argv[1:]
    for module in MODULES:
        importlib.import_module(module)
    trial = Trial(library, Path(work), getattr(errno, error), words)
    trial.begin()
    code, said, count, _ = trial.run(MOST)
    assert code == 0, said
    trial.right = trial.weights()
    rng = random.Random(SEED)
    moments = [moment for moment in range(1, count + 1) if rng.random() < float(share)]
    for moment in moments:
        if complaint := trial.wrong(moment):
            print(f"operation {moment}: {complaint}")
    print(f"{len(moments)} of {count} operations failed with {error}")


if __name__ == "__main__":
    main()
