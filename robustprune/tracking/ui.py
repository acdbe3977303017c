"""MLflow's own UI on a store of this machine, for as long as it is looked at."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from robustprune.errors import UsageError
from robustprune.tracking.client import environment
from robustprune.tracking.options import check_exists, local_path, redact, scheme_of, sqlite_uri

HOST = "127.0.0.1"  # nobody else's business: MLflow's server asks for no password
PORT = 5000
"""The port where none is named; MLflow's own."""
_START, _STOP = 120.0, 10.0  # seconds that a start and a stop may take
_TICK = 0.2  # seconds between two looks at the server


class Server:
    """A running server.

    Attributes:
        address: where a browser finds it.
        runs: its page of experiments, in the mode that is for trained networks.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes], port: int) -> None:
        self.address = f"http://{HOST}:{port}"
        self.runs = f"{self.address}/#/experiments?workflowType=machine_learning"
        self._process, self._said, self._port = process, said, port

    def wait(self) -> None:
        """Return never, unless the server ends by itself.

        Raises:
            UsageError: it did; with the last error that it told.
        """
        while self._process.poll() is None:
            time.sleep(_TICK)  # a wait without end may miss a Ctrl-C that comes just before it
        raise self._ended()

    def _started(self) -> None:
        """Wait until it answers; importing MLflow's server takes seconds."""
        limit = time.monotonic() + _START
        while not _answers(self._port):
            if self._process.poll() is not None:
                raise self._ended()
            if time.monotonic() > limit:
                raise UsageError(f"MLflow's UI did not start within {_START:g} s.{self._last()}")
            time.sleep(0.1)

    def _ended(self) -> UsageError:
        return UsageError(f"MLflow's UI ended with code {self._process.returncode}.{self._last()}")

    def _last(self) -> str:
        self._said.seek(0)
        text = redact(self._said.read().decode(errors="replace"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        return "".join(f" It said: {line}" for line in (errors or lines)[-1:])


@contextmanager
def serve_ui(uri: str, *, port: int = PORT) -> Iterator[Server]:
    """Run ``mlflow ui`` on the store at ``uri`` until the block ends, on this machine only.

    Args:
        uri: a SQLite file, a folder, or a database that the machine reaches.
        port: where it is to listen.

    Raises:
        UsageError: there is no store yet, the port is taken, or MLflow does not start; why is said.
    """
    check_exists(uri)
    if scheme_of(uri) in ("http", "https", "databricks"):
        raise UsageError(f"'{redact(uri)}' is a server, which has a UI of its own: open that.")
    _check_free(port)
    words = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    folder, uri = _beside(uri)
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [*words, "--workers", "1"],
            cwd=folder,
            env=_environment(uri),
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours; the server is stopped, not interrupted
        )
        try:
            server = Server(process, said, port)
            server._started()
            yield server
        finally:
            _stop(process)


def _beside(uri: str) -> tuple[Path | None, str]:
    """Where the server is to run, and the store's address from there.

    It takes a quoted address for a path, and would make folders of that name.
    """
    path = local_path(uri) if scheme_of(uri) == "sqlite" and "%" in uri else None
    return (None, uri) if path is None else (path.parent, sqlite_uri(Path(path.name)))


def _environment(uri: str) -> dict[str, str]:
    """The server's. The address may hold a password, which a command line would show to all."""
    own = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # judges of language models and their like
        "MLFLOW_LOGGING_LEVEL": "ERROR",  # to be said if it does not start
        "PYTHONSAFEPATH": "1",  # nothing of the working directory is imported
    }
    return {**environment(uri), **os.environ, **own}


def _check_free(port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except (OSError, OverflowError) as error:
            reason = (getattr(error, "strerror", None) or "there is none").lower()
            raise UsageError(
                f"port {port} cannot be had ({reason}). Choose another one, e.g. --port 5001."
            ) from None


def _answers(port: int) -> bool:
    with socket.socket() as visitor:
        visitor.settimeout(1)
        return visitor.connect_ex((HOST, port)) == 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it has started."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with suppress(ProcessLookupError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, number)
            else:  # Windows has no groups
                process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP)
            return
