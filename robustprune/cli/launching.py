"""Starting a command in several processes of this machine, and telling once how it ended.

torch's elastic launcher starts them, watches them and starts them anew. Each process writes its
outcome into a folder, and of all outcomes the first that is no echo of another is told.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from robustprune.cli.outcome import (
    DIED,
    FAULT,
    FOLDER,
    INTERRUPTED,
    CommandError,
    Outcome,
    launched,
    rank,
)
from robustprune.errors import UsageError


def is_main() -> bool:
    """True for the process that prints: the first of several, or the only one."""
    return rank() == 0


def processes(arguments: Namespace) -> int:
    """The number of processes to start; 1 if this one is to do the work.

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
        CommandError: one has failed; the outcome of the first that did.
        KeyboardInterrupt: this process was told to stop, and has stopped them.
    """
    # torch takes seconds to import, and most commands are not launched
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from robustprune.pipeline.compute import default_threads

    os.environ.setdefault("OMP_NUM_THREADS", str(default_threads(processes=processes)))
    # processes that are started anew would find the addresses of those before in a shared store
    os.environ.setdefault("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "300")  # seconds; or a step is cut off
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    logging.disable(logging.CRITICAL)  # the launcher's own messages
    with TemporaryDirectory(prefix="robustprune-") as name:
        os.environ[FOLDER] = name
        folder = Path(name)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=restarts,
            logs_specs=DefaultLogsSpecs(log_dir=str(folder / "logs")),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "robustprune", *words)
        except ChildFailedError as error:
            raise CommandError(_cause(folder, error.failures, processes)) from None
        except SignalException:
            outcome = Outcome.read(folder, rank=0)
            stopped = outcome is not None and outcome.code == INTERRUPTED
            if outcome is None or (outcome.echo and not stopped):  # or it was killed
                raise KeyboardInterrupt from None
            raise CommandError(outcome) from None
        finally:
            logging.disable(logging.NOTSET)


def _cause(folder: Path, failures: Mapping[int, Any], world: int) -> Outcome:
    """The main process's outcome if it is no echo, else the first that is none."""
    outcomes = []
    for number, failure in sorted(failures.items(), key=lambda one: (one[0] > 0, one[1].timestamp)):
        if (outcome := Outcome.read(folder, rank=number)) is not None:
            outcomes.append(outcome.of(number))
            continue
        code = failure.exitcode
        killed = f"was killed by {signal.Signals(-code).name}" if code < 0 else ""
        guess = " The memory may have been full." if code == -signal.SIGKILL else ""
        text = f"process {number} of {world} {killed or f'ended with exit code {code}'}.{guess}"
        echo = code == -signal.SIGTERM  # the launcher ends the others so
        outcomes.append(Outcome(FAULT, DIED, text, echo=echo))
    return min(outcomes, key=lambda one: (one.echo, one.code != INTERRUPTED))
