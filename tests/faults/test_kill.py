"""kill -9 at any moment of a training, half of them in the midst of a save: no run is lost, and the repeated command
ends with the bits of the run that nobody disturbed."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s2s.checkpoint import runs
from s2s.training import checkpoints
from s2s.training.metrics import read_metrics
from tests.faults.scale import scaled
from tests.training import test_resume, test_speech_training
from tests.training.disturbed import nothing_half_written
from tests.training.test_resume import same_bits
from tests.training.test_speech_training import speech  # noqa: F401

ROOT = Path(__file__).parents[2]
SEED, KILLS = 12, 200
MOST = 2.0  # seconds of a training that is killed at a random moment
SAVE = 0.15  # and of a save, about
OFTEN = ["train.max_updates=40", "train.checkpoint_updates=4", "train.valid_updates=12", "train.log_updates=4"]
CASES = {
    "text": [],
    "text, all that is saved": ["train.ema=0.9", "train.accumulate=2", "optim=adamw", "workers=2", "train.keep_last=1",
                                "data.word_dropout=0.1"],
    "speech": ["train.keep_last=1", "data.batch_tokens=500", "train.valid_metrics=[loss,wer]"],
    "speech, stages": ["data.batch_tokens=500", "train.stages=[{updates:10,freeze:[encoder]},{factor:0.5}]"],
}  # fmt: skip


class Nursery:
    """Trainings that begin at once; see `tests.faults.nursery`."""

    def __init__(self, said: Path):
        self.said = said
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery", str(said)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
        )  # fmt: skip

    def begin(self, words: list[str]) -> int:
        print(json.dumps(words), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def end(self) -> int:
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


@pytest.fixture
def nursery(tmp_path):
    with contextlib.closing(Nursery(tmp_path / "said")) as found:
        yield found


def killed(nursery: Nursery, words: list[str], run: Path, in_save: bool, rng: random.Random) -> tuple[int, bool]:
    """Begin, or go on, and kill. Returns how it ended, and whether that was in the midst of a save."""
    pid, until = nursery.begin(words), time.monotonic() + 20
    if in_save:
        skip = rng.randrange(3)  # saves
        before = None
        while time.monotonic() < until and running(pid):
            partial = next(iter(run.glob("checkpoints/.partial-*")), None)
            if partial and partial != before:
                before, skip = partial, skip - 1
                if skip < 0:
                    break
            time.sleep(0.001)
        time.sleep(rng.uniform(0, SAVE))
    else:
        time.sleep(rng.uniform(0, MOST))
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    code = nursery.end()
    left = [path.name for path in run.glob("checkpoints/.*")]
    return code, code == -signal.SIGKILL and bool(left)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def newest(run: Path) -> int:
    """The update of the newest whole checkpoint, which is one that training goes on from."""
    folder = checkpoints.newest_whole(run, print) if run.exists() else None
    return runs.update_of(folder) if folder else 0


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_no_run_is_lost(case, store, speech, tmp_path, nursery, capfd):  # noqa: F811
    print(f"seed {SEED}, {case}")
    rng, wanted = random.Random(f"{SEED} {case}"), scaled(KILLS) // len(CASES)
    data, small = (store, test_resume.SMALL) if case.startswith("text") else (speech, test_speech_training.SMALL)
    options = [*small, *OFTEN, *CASES[case], "train.samples=0", f"store={data}"]
    whole, kills, saves, number = tmp_path / "whole", 0, 0, 0
    nursery.begin([*options, f"run={whole}"])
    assert nursery.end() == 0, nursery.said.read_text()
    while kills < wanted:
        run = tmp_path / f"run{number}"
        number += 1
        code, best = -signal.SIGKILL, 0
        while code != 0 and kills < wanted:
            code, in_save = killed(nursery, [*options, f"run={run}"], run, kills % 2 == 0, rng)
            assert code in (0, -signal.SIGKILL), nursery.said.read_text()[-3000:]
            kills, saves = kills + (code != 0), saves + in_save
            assert newest(run) >= best, "a checkpoint that was there is lost"
            best = newest(run)
        nursery.begin([*options, f"run={run}"])
        assert nursery.end() == 0, nursery.said.read_text()[-3000:]
        same_bits(whole, run)
        nothing_half_written(run)
        check_metrics(whole, run)
    assert saves >= wanted / 3 or wanted < 20  # of a few, chance may have it that none is
    print(f"{case}: {kills} kills, {saves} in the midst of a save, {number} runs, all with the bits of the undisturbed")


def check_metrics(whole: Path, run: Path) -> None:
    """What was done over again counts as it was done last; a line that was cut off is the only one that is damaged."""
    found, complaints = ([], []), []
    for folder, losses in zip((whole, run), found, strict=True):
        events = read_metrics(folder / "metrics.jsonl", complaints)
        losses += [(e["kind"], e["update"], e["loss"]) for e in events if e["kind"] in ("train", "valid")]
        sessions = [event["session"] for event in events]
        assert sessions == sorted(sessions)
    assert found[0] == found[1]
    assert complaints == []
