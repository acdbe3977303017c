"""Starting a command in several processes of this machine, and telling once how it ended.

torch's elastic launcher starts them, watches them and starts them anew. Each process leaves a reply
in a folder, and of all replies the one that came first and is no echo of another is told.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from robustprune.cli.replies import DIED, FAULT, FOLDER, INTERRUPTED, ProcessError, Reply, launched
from robustprune.errors import UsageError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

_PATIENCE = "300"
"""Seconds that processes which are told to stop have for their step."""


def is_main() -> bool:
    """Whether this is the process that prints: the first of several, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def processes(arguments: Namespace) -> int:
    """How many processes are to be started; 1 if this one is to do the work.

    Raises:
        UsageError: this process is one of several already.
    """
    wanted: int = arguments.processes or 1
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted > 1 and world > 1:
        raise UsageError(
            f"--processes {wanted}: this is one of {world} processes that another launcher has "
            "started. Leave it out, or start the command without that launcher."
        )
    if arguments.restarts and wanted == 1 and not launched():
        raise UsageError(
            "--restarts is about the processes of --processes; torchrun has --max-restarts."
        )
    return wanted


def launch(words: Sequence[str], *, processes: int, restarts: int = 0) -> None:
    """Run a command of ours in several processes, and return when all have ended well.

    Args:
        words: what follows ``robustprune``.
        processes: their number.
        restarts: how often all are started anew because one has died.

    Raises:
        ProcessError: one has failed; the reply of the first that did.
        KeyboardInterrupt: this process was told to stop, and has stopped them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with TemporaryDirectory(prefix="robustprune-") as folder, _environment(folder, processes):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=restarts,
            logs_specs=DefaultLogsSpecs(log_dir=str(Path(folder) / "logs")),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "robustprune", *words)
        except ChildFailedError as error:
            raise ProcessError(_cause(Path(folder), error.failures, processes)) from None
        except SignalException:
            reply = Reply.read(Path(folder), rank=0)
            if reply is None or (reply.echo and reply.code != INTERRUPTED):  # or it was killed
                raise KeyboardInterrupt from None
            raise ProcessError(reply) from None


@contextmanager
def _environment(folder: str, processes: int) -> Iterator[None]:
    """What the processes find, and a launcher that keeps its own messages to itself."""
    from robustprune.pipeline.threads import default_threads

    before = dict(os.environ)
    os.environ.setdefault("OMP_NUM_THREADS", str(default_threads(processes=processes)))
    # processes that are started anew would find the addresses of those before in a shared store
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", _PATIENCE)  # or a step is cut off
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ[FOLDER] = folder
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(disabled)
        os.environ.clear()
        os.environ.update(before)


def _cause(folder: Path, failures: Mapping[int, ProcessFailure], world: int) -> Reply:
    """What the main process says of a fault that it has, too, or the one that failed first."""
    by_time = sorted(failures.items(), key=lambda item: (item[0] > 0, item[1].timestamp))
    replies = [_of(folder, rank, failure, world) for rank, failure in by_time]
    first = next((reply for reply in replies if not reply.echo), None)
    stopped = next((reply for reply in replies if reply.code == INTERRUPTED), replies[0])
    return first or stopped


def _of(folder: Path, rank: int, failure: ProcessFailure, world: int) -> Reply:
    reply = Reply.read(folder, rank=rank)
    if reply is not None:
        return reply.of(rank)
    code = failure.exitcode
    how = (
        f"ended with exit code {code}"
        if code >= 0
        else f"was killed by {signal.Signals(-code).name}"
    )
    echo = code == -signal.SIGTERM  # the launcher ends the others so
    guess = " The memory may have been full." if code == -signal.SIGKILL else ""
    return Reply(FAULT, DIED, f"process {rank} of {world} {how}.{guess}", echo=echo)
