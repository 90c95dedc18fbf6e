"""The script for Slurm, with stand-ins for Slurm's commands."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "slurm" / "train.sbatch"

# What a step does when it is told to end: as torchrun, it saves, takes its time, and ends with an error.
STEP = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$OUT/words"
trap 'sleep 0.3; echo saved > "$OUT/saved"; exit 1' TERM
if [ -n "${CODE:-}" ]; then exit "$CODE"; fi
touch "$OUT/started"
while true; do sleep 0.05; done
"""
CONTROL = """#!/usr/bin/env bash
if [ "$1" = show ]; then printf 'node7\\nnode8\\n'; exit; fi
echo "$@, $(cat "$OUT/saved")" > "$OUT/control"
"""


@pytest.fixture
def start(tmp_path):
    """start(...) runs the script; the stand-ins write to tmp_path. Returns the Popen."""
    for name, text in (("srun", STEP), ("scontrol", CONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    running = []

    def script(*words: str, **environment: str) -> subprocess.Popen:
        slurm = {"SLURM_JOB_ID": "12", "SLURM_JOB_NODELIST": "node[7-8]", "SLURM_JOB_NUM_NODES": "2",
                 "SLURM_GPUS_ON_NODE": "8", "SLURM_SUBMIT_DIR": str(SCRIPT.parent), "OUT": str(tmp_path)}  # fmt: skip
        path = f"{tmp_path}:{os.environ['PATH']}"
        environment = {**os.environ, **slurm, "PATH": path, **environment}
        running.append(subprocess.Popen(["bash", SCRIPT, *words], env=environment, start_new_session=True))
        return running[-1]

    yield script
    for process in running:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_script_parses_and_says_its_usage():
    assert subprocess.run(["bash", "-n", SCRIPT]).returncode == 0
    usage = subprocess.run(["bash", SCRIPT], capture_output=True, text=True)
    assert usage.returncode == 2
    assert "Usage: sbatch [OPTIONS] train.sbatch STORE RUN" in usage.stderr


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_job_that_is_preempted_saves_and_queues_anew(start, tmp_path, number):
    process = start("the store", "run", "seed=2")
    while process.poll() is None and not (tmp_path / "started").exists():
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=20) == 0
    assert (tmp_path / "control").read_text() == "requeue 12, saved\n"  # and not before it was saved
    words = (tmp_path / "words").read_text().splitlines()
    assert words[words.index("--rdzv-endpoint") + 1] == "node7:29500"
    assert words[words.index("-m") + 1 :] == [
        "s2s_cli.train", "--config", f"{SCRIPT.parent}/config.yaml", "store=the store", "run=run", "seed=2"
    ]  # fmt: skip


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ends_has_the_exit_code_of_its_step_and_stays_out_of_the_queue(start, tmp_path, code):
    assert start("store", "run", CODE=str(code)).wait(timeout=20) == code
    assert not (tmp_path / "control").exists()


def test_the_words_after_torchrun_are_its_own(start, tmp_path):
    """torchrun's own parser takes what the script gives it."""
    from torch.distributed.run import get_args_parser

    assert start("store", "run", CODE="0").wait(timeout=20) == 0
    words = (tmp_path / "words").read_text().splitlines()
    parsed = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert (parsed.nnodes, parsed.nproc_per_node, parsed.module) == ("2", "8", True)
    assert parsed.training_script == "s2s_cli.train"
