"""Cores that a process may use, and the environment of OpenMP that commands set before PyTorch is loaded."""

import os
import subprocess
import sys

import pytest

from s2s.config import cores


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cores, "chosen", {})
    monkeypatch.setattr(cores, "affinity", lambda: 8)
    yield
    for name in ("OMP_NUM_THREADS", "GOMP_SPINCOUNT"):
        os.environ.pop(name, None)  # monkeypatch then sets what there was


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 3),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "6400000 100000\n"}, 8),
        ({"cpu.max": "what"}, 8),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ],
)
def test_a_quota_of_a_control_group_counts(tmp_path, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores.cores(tmp_path) == expected


def test_threads_are_as_many_as_the_quota_and_are_divided_among_processes(monkeypatch):
    monkeypatch.setattr(cores, "quota", lambda cgroups: 6)
    cores.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "6"
    cores.share(4)
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_without_a_quota_openmp_decides_and_processes_share(monkeypatch):
    monkeypatch.setattr(cores, "quota", lambda cgroups: None)
    cores.prepare()
    assert "OMP_NUM_THREADS" not in os.environ
    cores.share(4)
    assert os.environ["OMP_NUM_THREADS"] == "2"


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(cores, "quota", lambda cgroups: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    cores.prepare()
    cores.share(2)
    assert os.environ["OMP_NUM_THREADS"] == "5"
    assert "GOMP_SPINCOUNT" not in os.environ


def test_commands_set_it_before_pytorch_is_loaded():
    code = "import sys, os, s2s_cli; print('torch' in sys.modules, os.environ['GOMP_SPINCOUNT'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "1000"]
