"""The processor's cores: how many this process may use, and how threads wait for each other."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
chosen: dict[str, str] = {}  # variables of the environment that were chosen here, and not by the user


def prepare() -> None:
    """Set the environment of OpenMP, which PyTorch reads when it is loaded. What the user has set stays.

    Threads of OpenMP wait for each other in a busy loop. On a core that other work uses, too, the one that is waited
    for is then not running, and two threads train many times slower than one (tests/benchmarks/busy.py). So the loop
    is kept short. And OpenMP starts a thread for each core of the machine even if the process has a quota of fewer, as
    in a container.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "1000"
    if cores() < affinity():
        share(1)


def share(processes: int) -> None:
    """Let processes that are started from here have as many threads each as there are cores for it, at least one."""
    if os.environ.get("OMP_NUM_THREADS", chosen.get("OMP_NUM_THREADS")) == chosen.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = chosen["OMP_NUM_THREADS"] = str(max(1, cores() // processes))


def cores(cgroups: Path = CGROUPS) -> int:
    """The number of cores that this process may use: by its affinity, and by the quota of its control group.

    Args:
        cgroups: Where control groups are mounted.
    """
    return min(affinity(), quota(cgroups) or affinity())


def affinity() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def quota(cgroups: Path) -> int | None:
    """Cores' worth of time that the control group allows, rounded up; None: there is no limit."""
    try:
        if (file := cgroups / "cpu.max").exists():  # version 2
            limit, period = file.read_text().split()
        else:
            limit, period = ((cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return None if limit == "max" or int(limit) <= 0 else max(1, math.ceil(int(limit) / int(period)))
    except (OSError, ValueError):  # no control groups
        return None
