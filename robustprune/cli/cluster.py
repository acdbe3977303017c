"""Jobs on a cluster, by submitit; its tasks import this file, which must stay light.

submitit submits, watches and requeues. What it leaves in ``runs/submitit/`` are pickles of its own
and the logs of its tasks; a job's own output is in its log, as everywhere.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING, Any

from robustprune.errors import UsageError, first_line
from robustprune.stopping import PARENT

if TYPE_CHECKING:
    from robustprune.pipeline.jobs import Job, Process, Start

CLUSTERS = ("slurm", "local")
INSTALL = "pip install 'robustprune[cluster]'"
_DAY = 24 * 60  # minutes
_TIMES = 100  # that a job is requeued because its time was up


def submitting(cluster: str, options: Sequence[str], *, most: int) -> Start:
    """Return what submits jobs to a cluster.

    Args:
        cluster: one of `CLUSTERS`.
        options: ``key=value``s: submitit's parameters, or else options of sbatch.
        most: jobs at a time, by which those of ``local`` share the cores.

    Raises:
        UsageError: submitit or SLURM is not there, or takes no such job.
    """
    if cluster not in CLUSTERS:
        raise UsageError(f"no cluster '{cluster}'. Choices: {', '.join(CLUSTERS)}.")
    try:
        import submitit
    except ImportError:
        raise UsageError(f"--cluster needs submitit: {INSTALL}") from None
    from robustprune.pipeline import RUNS
    from robustprune.pipeline.jobs import threads_of_each

    own = threads_of_each(most) if cluster == "local" else {}
    try:
        executor = submitit.AutoExecutor(
            RUNS / "submitit", cluster=cluster, **{f"{cluster}_max_num_timeout": _TIMES}
        )
        executor.update_parameters(name="robustprune", timeout_min=_DAY)
        _set(executor, options)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UsageError(f"--cluster {cluster}: {first_line(error)}") from None

    def start(job: Job, slot: int) -> Process:
        try:
            task = Task(tuple(job.command), job.log.absolute(), Path.cwd(), own)
            return _Submitted(executor.submit(task), job.log)
        except submitit.core.utils.FailedSubmissionError as error:
            raise UsageError(f"--cluster {cluster}: {error}") from None

    return start


def _set(executor: Any, options: Sequence[str]) -> None:
    from robustprune.recipe.reading import read_yaml

    more = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals or not text:
            raise UsageError(f"--slurm {option}: expected KEY=VALUE, e.g. partition=gpu.")
        name, value = key.strip().replace("-", "_"), read_yaml(text).values
        try:
            executor.update_parameters(**{f"slurm_{name}": value})
        except NameError:  # submitit does not know it; sbatch may
            more[name] = value
    if more:
        executor.update_parameters(slurm_additional_parameters=more)


@dataclass
class Task:
    """What a job of the cluster does: it runs a command.

    When its time is up, or its place is wanted, submitit gets a signal and calls `checkpoint`: the
    command saves and stops, and is requeued. It is one that goes on (``--resume``).
    """

    command: tuple[str, ...]
    log: Path
    folder: Path
    variables: dict[str, str]
    process: Any = field(default=None, repr=False)

    def __call__(self) -> int:
        """Return the command's exit code."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**os.environ, **self.variables, PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_deaf,
            )
        try:
            while (code := self.process.poll()) is None:  # wait() would hold a lock
                sleep(0.2)
        except KeyboardInterrupt:  # cancelled
            self.process.terminate()
            code = self.process.wait()
        return int(code)

    def checkpoint(self) -> Any:
        """Stop the command in order; return what is to be submitted in its place."""
        from submitit.helpers import DelayedSubmission

        self.process.terminate()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(replace(self, process=None))


def _deaf() -> None:
    """Ignore the signals by which schedulers tell submitit: they reach its children, too."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


@dataclass
class _Submitted:
    """A job of submitit's as one of ours."""

    job: Any
    log: Path

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except RuntimeError as error:  # submitit's: it ended without a result
            about = f"job {self.job.job_id} of the cluster: {self.job.state.lower()}"
            with self.log.open("a", encoding="utf-8") as log:
                log.write(f"{error}\nerror: {about}, see {self.job.paths.stderr}\n")
            return 1

    def terminate(self) -> None:
        self.job.cancel()
