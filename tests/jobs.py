"""Real processes of one job, for tests: two of them, on one thread each."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def environment(**variables: str) -> dict[str, str]:
    """What a process of a test finds: this checkout, one thread, and no job that it is part of."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables}


def run_job(module: str, *words: str | Path, world: int = 2, timeout: float = 240) -> None:
    """Run ``python -m module words…`` in each process of a job, and wait until all have ended well.

    Args:
        module: with a `__main__` part; it finds the variables that torchrun sets.
        words: its arguments.
        world: number of processes.
        timeout: in seconds, for all of them.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [sys.executable, "-m", module, *map(str, words)]
    jobs = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(
                RANK=str(rank),
                LOCAL_RANK=str(rank),
                WORLD_SIZE=str(world),
                LOCAL_WORLD_SIZE=str(world),
                MASTER_ADDR="127.0.0.1",
                MASTER_PORT=port,
            ),
        )
        for rank in range(world)
    ]
    try:
        errors = [job.communicate(timeout=timeout)[1] for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    assert [job.returncode for job in jobs] == [0] * world, "\n".join(errors)
