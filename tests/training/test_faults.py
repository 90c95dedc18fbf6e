"""What goes wrong in a long run, made to happen: then the repeated command ends where the undisturbed run ends."""

import errno
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s2s.checkpoint import progress, runs
from s2s.criterions.criterion import Criterion
from s2s.training import checkpoints
from tests.training.disturbed import events, nothing_half_written, words
from tests.training.test_calibrate import memory_of
from tests.training.test_resume import same_bits
from tests.training.test_trainer import one_error_line

# Then a batch in two halves has its gradient, to rounding, and what is 0 but for rounding is not blown up.
EXACT = ["model.dropout=0", "optim.eps=1e-4"]


# --- kill -9 ---------------------------------------------------------------------------------------------------------

# Trains again and again in one folder, each time in a fresh child process that is killed before the given file
# operation in the folder of checkpoints (of its links, too). Operations are what Python's audit events tell of.
KILLER = """
import os, signal, sys
import torch, tensorboard.compat.proto.event_pb2, torch.utils.tensorboard
from s2s_cli import train
from s2s.training import run

place, moments = sys.argv[1], [int(word) for word in sys.argv[2].split(",")]
sys.argv = ["s2s-train", *sys.argv[3:]]
NAMES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink"}
for moment in moments:
    child = os.fork()
    if not child:
        count = 0

        def look(event, arguments):
            global count
            if event in NAMES and any(place in str(word) for word in arguments[:2]):
                if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                    return
                count += 1
                if count == moment:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(look)
        train.main()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(-os.waitstatus_to_exitcode(status), flush=True)
"""


def killed_in_saves(store, run, moments) -> list[int]:
    """Kill before each of these file operations of a process; the signals that ended the processes, 0: none did."""
    command = [sys.executable, "-c", KILLER, f"{run}/checkpoints", ",".join(map(str, moments)), *words(store, run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert "Traceback" not in done.stderr, done.stderr
    return [int(line) for line in done.stdout.split()]


def test_killed_during_saves(store, whole, tmp_path, s2s):
    run = tmp_path / "killed"
    ends = killed_in_saves(store, run, [3, 8, 13, 19, 26])
    assert ends.count(signal.SIGKILL) >= 4
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)
    nothing_half_written(run)


@pytest.mark.slow
def test_killed_at_every_moment_of_the_first_saves(store, whole, tmp_path, s2s):
    run = tmp_path / "killed"
    for moment in range(1, 60):
        shutil.rmtree(run, ignore_errors=True)
        if killed_in_saves(store, run, [moment]) == [0]:
            break
        assert s2s("train", *words(store, run)) == 0
        same_bits(whole, run)
        nothing_half_written(run)
    assert moment > 40


# --- damaged files ---------------------------------------------------------------------------------------------------


def truncated(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 16
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "name"),
    [(truncated, "model.safetensors"), (flipped, "training.safetensors"), (truncated, "state.json")],
)
def test_a_damaged_checkpoint_is_kept_aside(store, whole, tmp_path, s2s, capsys, damage, name):
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=14")) == 0
    damage((run / "last" / name).resolve())
    capsys.readouterr()
    assert s2s("train", *words(store, run)) == 0
    said = capsys.readouterr().err
    assert f"step_00000014/{name}: its content differs from what was saved" in said
    assert "resuming from step_00000012" in said
    same_bits(whole, run)
    assert (run / "checkpoints/aside_step_00000014" / name).exists()
    # It does not count as one of the newest that are kept.
    assert [folder.name[-2:] for folder in runs.steps(run)] == ["16", "18", "20"]


def test_an_unreadable_shard_is_named_and_its_return_is_all_that_is_needed(store, whole, tmp_path, s2s, capsys):
    shard = tmp_path / "store/train-00000.target.tokens"
    shutil.copytree(store, tmp_path / "store")
    run = tmp_path / "run"
    assert s2s("train", *words(tmp_path / "store", run, "train.max_updates=7")) == 0
    content = shard.read_bytes()
    for fault, verify in ((truncated, "false"), (flipped, "true"), (Path.unlink, "true")):
        fault(shard)
        capsys.readouterr()
        assert s2s("train", *words(tmp_path / "store", run, f"data.verify={verify}")) == 2
        assert str(shard) in one_error_line(capsys)
        shard.write_bytes(content)
    assert s2s("train", *words(tmp_path / "store", run)) == 0
    same_bits(whole, run)


def test_a_shard_that_is_cut_while_training_is_named(store, whole, tmp_path, s2s, capsys, monkeypatch):
    from s2s.training.trainer import Trainer

    shard = tmp_path / "store/train-00000.source.tokens"
    shutil.copytree(store, tmp_path / "store")
    content, run, plain = shard.read_bytes(), tmp_path / "run", Trainer._update

    def update(self, *args):
        plain(self, *args)
        if self.progress.update == 8:
            truncated(shard)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", update)
        assert s2s("train", *words(tmp_path / "store", run)) == 2
    assert f"{shard}: truncated or changed" in one_error_line(capsys)
    shard.write_bytes(content)
    assert s2s("train", *words(tmp_path / "store", run)) == 0
    same_bits(whole, run)


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "weights", "texts"])
def test_a_full_disk_costs_the_saves_that_it_prevents(store, whole, tmp_path, s2s, capsys, monkeypatch, when):
    """The disk is full from update 9 to 16; seen before a save, or only when the weights or the state are written."""
    run, plain = tmp_path / "run", (shutil.disk_usage, checkpoints.save_file, Path.write_bytes)
    update = [0]

    def full() -> bool:
        return 9 <= update[0] <= 16

    def written(folder, *args):
        update[0] = runs.update_of(folder)
        return write(folder, *args)

    def usage(path):
        return plain[0](path)._replace(free=1000) if full() and when == "before" else plain[0](path)

    def save_file(tensors, path):
        plain[1](tensors, path)
        if full() and when == "weights":
            truncated(path)
            raise checkpoints.SafetensorError("I/O error: No space left on device (os error 28)")

    def write_bytes(path, content):
        if full() and when == "texts" and path.name == "state.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain[2](path, content)

    write = checkpoints.write
    monkeypatch.setattr(checkpoints, "write", written)
    monkeypatch.setattr(shutil, "disk_usage", usage)
    monkeypatch.setattr(checkpoints, "save_file", save_file)
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)
    said = capsys.readouterr().err
    for failed in (9, 12, 15, 16):
        assert f"warning: the checkpoint of update {failed} could not be saved: [Errno 28] " in said
    assert "the newest one is step_00000008; training goes on, and the next save tries again" in said
    if when == "before":
        assert "MB, and 0.0 MB are free" in said
    assert [event["update"] for event in events(run, "save_failed")] == [9, 12, 15, 16]
    assert [event["update"] for event in events(run, "checkpoint")] == [3, 6, 8, 18, 20]
    nothing_half_written(run)


def test_a_last_save_that_fails_is_a_failure_and_repeating_goes_on(store, whole, tmp_path, s2s, capsys, monkeypatch):
    run, plain = tmp_path / "run", checkpoints.write

    def write(folder, *args):
        if folder.name == "step_00000020":
            raise OSError(errno.EIO, "Input/output error", str(folder))
        plain(folder, *args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write", write)
        assert s2s("train", *words(store, run)) == 1
    line = one_error_line(capsys)
    assert "the checkpoint of update 20 could not be saved: [Errno 5] Input/output error" in line
    assert "the newest one is step_00000018; free some space, and repeat the command to resume from it" in line
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)


def test_a_limit_on_file_size_keeps_the_run_alive(store, whole, tmp_path, s2s):
    """Weights that the system itself refuses to write, in a process of its own."""
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, -1)); "
            "from s2s_cli.train import main; main()")  # fmt: skip
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=4")) == 0
    done = subprocess.run([sys.executable, "-c", code, *words(store, run)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "update 6 could not be saved: [Errno 27]" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("s2s-train: failed: ")
    assert [folder.name for folder in runs.steps(run)] == ["step_00000003", "step_00000004"]
    nothing_half_written(run)
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)


def test_a_disk_that_hangs_is_told(store, tmp_path, s2s, capsys, monkeypatch):
    from s2s.training import saving

    plain = checkpoints.write

    def write(*args):
        time.sleep(0.3)
        plain(*args)

    monkeypatch.setattr(checkpoints, "write", write)
    monkeypatch.setattr(saving, "SLOW", 0.05)
    assert s2s("train", *words(store, tmp_path / "run", "train.max_updates=4")) == 0
    assert "warning: the save of update 3 is slow, and training waits for it" in capsys.readouterr().err


def test_training_goes_on_while_a_checkpoint_is_written(store, whole, tmp_path, s2s, monkeypatch):
    """What is saved is what was there when the save began, however far training has come since."""
    from s2s.training.trainer import Trainer

    run, seen, trainers, plain, update = tmp_path / "run", {}, [], checkpoints.write, Trainer._update

    def write(folder, *args):
        until = time.monotonic() + 60
        while runs.update_of(folder) < 7 and trainers[0].progress.update <= runs.update_of(folder):  # 7 is the last
            assert time.monotonic() < until
            time.sleep(0.001)
        seen[runs.update_of(folder)] = trainers[0].progress.update
        plain(folder, *args)

    def noted(self, *args):
        trainers[:] = [self]
        update(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write", write)
        patch.setattr(Trainer, "_update", noted)
        assert s2s("train", *words(store, run, "train.max_updates=7")) == 0
    assert seen[3] > 3
    assert seen[6] > 6
    shutil.rmtree(run / "checkpoints/step_00000007")
    assert s2s("train", *words(store, run)) == 0  # goes on from update 6
    same_bits(whole, run)


# --- gradients and losses --------------------------------------------------------------------------------------------


@pytest.fixture
def spoil(monkeypatch):
    """spoil(function) has a training loss multiplied by function(batch), which is called once a batch."""
    plain = Criterion.__call__

    def install(function):
        def call(self, model, batch, totals=None):
            loss = plain(self, model, batch, totals)
            if model.training:
                loss.sum = loss.sum * function(batch)
            return loss

        monkeypatch.setattr(Criterion, "__call__", call)

    return install


def test_non_finite_gradients_are_skipped_the_same_after_a_kill(store, tmp_path, s2s, spoil):
    """Those of the batches with example 5, so that the mathematics are the same in both runs."""
    spoil(lambda batch: float("nan") if 5 in batch.ids else 1.0)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert s2s("train", *words(store, whole)) == 0
    progress = json.loads((whole / "last/state.json").read_text())["progress"]
    assert progress["skipped"] >= 1
    assert s2s("train", *words(store, run, "train.max_updates=13")) == 0
    shutil.rmtree(run / "checkpoints/step_00000013")
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)


def spiked(course: progress.Course, losses: list[float]) -> list[int]:
    """The intervals (from 1) whose end was a divergence."""
    found = []
    for interval, loss in enumerate(losses, 1):
        course.add(loss * 50, 50)
        found += [interval] * (course.end_interval(interval) is not None)
    return found


def test_a_spike_is_three_intervals_over_one_and_a_half_times_the_best_of_the_last_ten():
    falling = [8.0, 6.0, 5.0, 4.0]
    assert spiked(progress.Course(), [*falling, 6.1, 6.1, 6.1]) == [7]
    assert spiked(progress.Course(), [*falling, 5.9, 5.9, 5.9]) == []
    assert spiked(progress.Course(), [*falling, 7.0, 7.0, 5.0, 7.0, 7.0]) == []
    assert spiked(progress.Course(), [2.0, *[2.9] * 10, 4.0, 4.0, 4.0]) == []
    assert spiked(progress.Course(), [2.0, *[2.9] * 9, 4.0, 4.0, 4.0]) == [13]
    course = progress.Course()
    spiked(course, [*falling, 7.0, 7.0])
    assert course.before(6) == 4
    empty = progress.Course()
    assert empty.end_interval(1) is None  # an interval whose updates were all skipped
    assert spiked(empty, falling) == []


DIVERGES = ["train.log_updates=1", "train.max_updates=20"]


@pytest.fixture
def heavy(spoil):
    """Has the loss of 4 batches in a row grow tenfold, at first, or every time that they come."""

    def install(every_time: bool):
        seen = []
        order: dict[bytes, int] = {}

        def factor(batch):
            key = batch.ids.numpy().tobytes()
            order.setdefault(key, len(order))
            seen.append(key)
            return 10.0 if order[key] in range(10, 14) and (every_time or seen.count(key) == 1) else 1.0

        spoil(factor)

    return install


def test_a_divergence_can_stop_the_run(store, tmp_path, s2s, capsys, heavy):
    heavy(every_time=True)
    assert s2s("train", *words(store, tmp_path / "run", *DIVERGES, "train.on_divergence=stop")) == 1
    line = one_error_line(capsys)
    assert "failed: update 13: the loss of 3 intervals in a row exceeds 1.5 times its recent best" in line
    assert runs.steps(tmp_path / "run")[-1].name == "step_00000012"


def test_a_divergence_is_only_warned_of_by_default(store, tmp_path, s2s, capsys, heavy):
    heavy(every_time=True)
    assert s2s("train", *words(store, tmp_path / "run", *DIVERGES)) == 0
    assert capsys.readouterr().err.count("warning: update 13: the loss of 3 intervals in a row exceeds 1.5 times") == 1


def test_a_divergence_can_be_rolled_back_and_the_rest_of_the_epoch_comes_in_another_order(
    store, tmp_path, s2s, capsys, monkeypatch, heavy
):
    from s2s.training.trainer import Trainer

    plain, seen = Trainer._update, []

    def update(self, batches, *args):
        plain(self, batches, *args)
        seen.append((self.progress.update, tuple(batches[0].ids.tolist())))

    heavy(every_time=False)
    monkeypatch.setattr(Trainer, "_update", update)
    run = tmp_path / "run"
    options = [*DIVERGES, "train.on_divergence=rollback", "train.keep_last=5", "train.max_updates=22"]
    assert s2s("train", *words(store, run, *options)) == 0
    said = capsys.readouterr().err
    assert "the loss of 3 intervals in a row exceeds 1.5 times" in said
    assert "going back to step_00000009, and continuing with the data in another order (1 of 5 rollbacks)" in said
    assert events(run, "rollback")[0]["update"] == 13
    assert events(run, "rollback")[0]["to"] == 9
    assert json.loads((run / "last/state.json").read_text())["progress"]["rollbacks"] == 1
    updates = [number for number, _ in seen]
    assert updates == [*range(1, 14), *range(10, 23)]
    first, again = seen[9:13], seen[13:17]
    assert [number for number, _ in first] == [number for number, _ in again]
    assert [ids for _, ids in first] != [ids for _, ids in again]
    size = len([ids for _, ids in seen if seen]) and 400
    epoch = [ids for _, ids in seen[:9]] + [ids for _, ids in seen[13:]]
    examples, count = set(), 0
    for ids in epoch:
        if count + len(ids) > size:
            break
        examples |= set(ids)
        count += len(ids)
    assert len(examples) == count


def test_what_diverges_again_and_again_is_given_up(store, tmp_path, s2s, capsys, spoil):
    calls = []
    spoil(lambda batch: calls.append(1) or (1.0 if len(calls) <= 6 else float("nan")))
    run = tmp_path / "run"
    assert s2s("train", *words(store, run, "train.max_updates=40", "train.on_divergence=rollback")) == 1
    line = one_error_line(capsys)
    assert "10 updates in a row had a non-finite loss" in line
    assert "; 5 rollbacks did not help" in line
    assert len(events(run, "rollback")) == 5
    assert {event["to"] for event in events(run, "rollback")} == {6}

    calls[:] = [1] * 10
    assert s2s("train", *words(store, tmp_path / "other", "train.on_divergence=rollback")) == 1
    assert "there is no earlier checkpoint for a rollback" in one_error_line(capsys)


@pytest.mark.parametrize("stop", [11, 15])
def test_killed_before_or_after_a_rollback_it_ends_the_same(store, tmp_path, s2s, spoil, stop, monkeypatch):
    """Where what diverges depends on the data and the update alone, a resumed run rolls back as the other one did."""
    from s2s.training.trainer import Trainer

    trainers = []
    plain = Trainer._update

    def update(self, *args):
        trainers[:] = [self]
        if len(stops) and self.progress.update == stops[0] and self.progress.rollbacks == (stops[0] > 13):
            stops.pop()
            raise KeyboardInterrupt
        plain(self, *args)

    monkeypatch.setattr(Trainer, "_update", update)
    spoil(lambda batch: 10.0 if 10 < trainers[0].progress.update < 14 and not trainers[0].progress.rollbacks else 1.0)
    options, stops = [*DIVERGES, "train.on_divergence=rollback"], []
    assert s2s("train", *words(store, tmp_path / "whole", *options)) == 0
    stops.append(stop)
    assert s2s("train", *words(store, tmp_path / "run", *options)) == 130
    assert not stops
    assert s2s("train", *words(store, tmp_path / "run", *options)) == 0
    progress = json.loads((tmp_path / "run/last/state.json").read_text())["progress"]
    assert progress["rollbacks"] == 1
    same_bits(tmp_path / "whole", tmp_path / "run")


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch):
    """short(limit): batches that need more fail as on a GPU."""
    monkeypatch.setattr(gc, "collect", lambda: None)  # slow among all that pytest holds
    plain = Criterion.__call__

    def limit(most):
        def call(self, model, batch, totals=None):
            if model.training and memory_of(batch) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            return plain(self, model, batch, totals)

        monkeypatch.setattr(Criterion, "__call__", call)

    return limit


@pytest.mark.parametrize("options", [[], ["data.batching=packed", "data.row_tokens=30"], ["train.accumulate=2"]])
def test_a_batch_that_does_not_fit_is_split_and_nothing_else_differs(store, tmp_path, s2s, capsys, short, options):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert s2s("train", *words(store, whole, *EXACT, *options)) == 0
    short(11_000)
    assert s2s("train", *words(store, run, *EXACT, *options)) == 0
    a, b = (load_file(folder / "last/model.safetensors") for folder in (whole, run))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)
    states = [json.loads((folder / "last/state.json").read_text()) for folder in (whole, run)]
    assert states[0]["progress"]["split"] == 0
    assert states[1]["progress"]["split"] >= 2
    assert states[0]["iterator"] == states[1]["iterator"]
    assert states[0]["progress"]["epoch"]["target"] == states[1]["progress"]["epoch"]["target"]
    said = capsys.readouterr().err
    assert "update 1: split in two, because it did not fit into memory: a batch of " in said
    assert " target positions (1 so far)" in said or " so far); train.calibrate avoids it" in said


def test_out_of_memory_in_the_middle_of_the_backward_pass_leaves_no_gradient_behind(store, tmp_path, s2s, monkeypatch):
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert s2s("train", *words(store, whole, *EXACT)) == 0
    plain, failed = Criterion.__call__, []
    monkeypatch.setattr(gc, "collect", lambda: None)

    def fail(gradient):
        failed.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    def call(self, model, batch, totals=None):
        handle = None
        if model.training and len(batch.ids) > 25:
            # The decoder's gradients are there by then.
            handle = model.encoder.norm.register_forward_hook(lambda *args: args[2].register_hook(fail) and None)
        try:
            return plain(self, model, batch, totals)
        finally:
            if handle:
                handle.remove()

    monkeypatch.setattr(Criterion, "__call__", call)
    assert s2s("train", *words(store, run, *EXACT)) == 0
    assert len(failed) >= 5
    a, b = (load_file(folder / "last/model.safetensors") for folder in (whole, run))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


def test_runs_short_of_memory_resume_to_the_same_bits(store, tmp_path, s2s, short):
    short(11_000)
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert s2s("train", *words(store, whole)) == 0
    assert s2s("train", *words(store, run, "train.max_updates=7")) == 0
    shutil.rmtree(run / "checkpoints/step_00000007")
    assert s2s("train", *words(store, run)) == 0
    same_bits(whole, run)


def test_a_sentence_that_does_not_fit_alone_is_a_failure_that_names_its_shape(store, tmp_path, s2s, capsys, short):
    short(150)
    assert s2s("train", *words(store, tmp_path / "run")) == 1
    line = one_error_line(capsys)
    assert "a batch of 1 sentences x " in line
    assert "does not fit into memory; start a new run with a lower data.max_length, or a smaller model" in line
