"""Several of our commands at once, each in a process of its own that writes a log."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from joblib import cpu_count  # type: ignore[import-untyped]

from robustprune.stopping import PARENT, orderly

_ERROR = re.compile(r"(robustprune[\w -]*: )?error: ")  # ours, or of a wrong argument
_EVERY = 0.1  # seconds between two looks at what is running


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: for people.
        words: what follows ``robustprune``.
        log: the file that its output is added to.
    """

    name: str
    words: tuple[str, ...]
    log: Path

    @property
    def command(self) -> list[str]:
        """The command line."""
        return [sys.executable, "-m", "robustprune", *self.words]

    def said(self, code: int) -> str:
        """The reason why it ended with an exit code other than 0."""
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        errors = [line.partition("error: ")[2] for line in lines if _ERROR.match(line)]
        return errors[-1] if errors else f"ended with exit code {code}"


class Process(Protocol):
    """A job at work; of this machine's it is `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Return the exit code, minus a signal's number if one killed it; None while it works."""

    def terminate(self) -> None:
        """Ask it to save and stop; a second time, to stop at once."""


Start = Callable[[Job, int], Process]
"""Starts a job in a slot: a number from 0 on that no other one at work has."""


def work(
    jobs: Iterator[Job], *, start: Start, most: int, ended: Callable[[Job, int], object]
) -> None:
    """Do jobs, so many at a time, until there are no more.

    Args:
        jobs: asked for the next one when there is room for it.
        start: see `Start`.
        most: jobs at a time.
        ended: told of each that has ended, and its exit code.

    Raises:
        KeyboardInterrupt: this process was asked to stop. All that were at work have been asked to,
            and have ended.
    """
    running: dict[int, tuple[Job, Process]] = {}

    def look() -> None:
        for slot, (job, process) in list(running.items()):
            if (code := process.poll()) is not None:
                del running[slot]
                ended(job, code)

    with orderly() as request:  # so that no job is started and not known
        asked = False
        while True:
            try:
                free = [slot for slot in range(most) if slot not in running]
                for slot in free:
                    if request.arrived or (job := next(jobs, None)) is None:
                        break
                    running[slot] = (job, start(job, slot))
                if not running:
                    break
                if request.arrived and not asked:
                    asked = True
                    _stop(running)
                look()
                time.sleep(_EVERY)
            except KeyboardInterrupt:  # a second request
                _stop(running)
            except BaseException:
                _stop(running)
                while any(process.poll() is None for _, process in running.values()):
                    time.sleep(_EVERY)
                raise


def here(most: int, *, processes: int = 1) -> Start:
    """Start jobs on this machine, each with its share of the cores and GPUs.

    Threads are what bits depend on: their number is recorded with each run, and a run by hand with
    as many (``OMP_NUM_THREADS``) writes the same files.

    Args:
        most: jobs at a time.
        processes: of each job.
    """
    threads = threads_of_each(most * processes)

    def start(job: Job, slot: int) -> Process:
        gpus = share_of_gpus(slot, processes, visible_gpus())
        with job.log.open("ab") as log:
            return subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **threads, **gpus, PARENT: str(os.getpid())},
                start_new_session=True,  # Ctrl-C is for this process, which passes it on once
            )

    return start


def threads_of_each(count: int) -> dict[str, str]:
    """The variable that gives each of ``count`` processes its threads; the user's own wins."""
    if os.environ.get("OMP_NUM_THREADS") or os.environ.get("MKL_NUM_THREADS"):
        return {}
    most = min(torch.get_num_threads(), cpu_count())  # joblib knows the quotas of containers
    return {"OMP_NUM_THREADS": str(max(1, most // count))}


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    every = [str(number) for number in range(torch.cuda.device_count())]
    return named.split(",")[: len(every)] if named else every


def share_of_gpus(slot: int, processes: int, gpus: Sequence[str]) -> dict[str, str]:
    """The variable that gives a slot its own GPUs; where they are too few, slots share them."""
    if not gpus:
        return {}
    own = [gpus[(slot * processes + number) % len(gpus)] for number in range(processes)]
    return {"CUDA_VISIBLE_DEVICES": ",".join(dict.fromkeys(own))}


def _stop(running: dict[int, tuple[Job, Process]]) -> None:
    for _, process in running.values():
        with suppress(ProcessLookupError):
            process.terminate()
