"""How many threads a process computes with, where the recipe does not say.

As many as there are idle CPUs for it: threads that wait for one another are slower than one where
they outnumber those. Bits depend on the number, so it is recorded, and a run that is gone on with
keeps it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import psutil
import torch

_LOOK = 0.25  # seconds for which the machine is watched
_SPARE = 0.25  # of a CPU: what others may take of it before it counts as taken
_SET = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def default_threads(environment: Mapping[str, str] = os.environ, *, processes: int = 0) -> int:
    """The number for each process of a job on this machine.

    The user's own word wins: one of the variables that torch obeys, or ``torch.set_num_threads``
    with fewer.

    Args:
        environment: this process's.
        processes: how many share the machine; as the launcher says if 0.
    """
    most = torch.get_num_threads()
    if most == 1 or any(environment.get(name) for name in _SET):
        return most
    processes = processes or int(environment.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(most, math.floor(_idle() / processes + _SPARE)))


@cache
def _idle() -> float:
    """CPUs that this process may use and nobody else does; once a process, for all its runs."""
    own = psutil.Process().cpu_affinity() if hasattr(psutil.Process, "cpu_affinity") else None
    used = psutil.cpu_percent(_LOOK, percpu=True)
    usable = [used[cpu] for cpu in own or () if cpu < len(used)] or used
    idle = sum(1 - float(percent) / 100 for percent in usable)
    return min(idle, quota())


def quota(root: Path = Path("/")) -> float:
    """CPUs that the process's control groups let it use at a time; infinite if they do not say.

    Both versions of control groups are read, from the process's own group up: each may be limited.

    Args:
        root: of the file system.
    """
    found = [_limit(folder) for folder in _groups(root)]
    return min(found, default=math.inf)


def _groups(root: Path) -> list[Path]:
    """The folders of the process's groups and of those above them, as far as they can be seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        names = (
            [""] if not controllers else [controllers, "cpu"] * ("cpu" in controllers.split(","))
        )
        for name in names:
            top = root / "sys/fs/cgroup" / name
            inside = top / group.lstrip("/")
            folders += [f for f in (inside, *inside.parents) if f.is_relative_to(top)]
    return folders


def _limit(folder: Path) -> float:
    try:
        limit, period = _words(folder)
        return int(limit) / int(period) if int(limit) > 0 else math.inf
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such group in this container
        return math.inf


def _words(folder: Path) -> tuple[str, str]:
    if (folder / "cpu.max").exists():
        limit, period = (folder / "cpu.max").read_text().split()
        return limit, period
    return (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
