"""MLflow's own UI on a store of this machine, for as long as it is looked at."""

from __future__ import annotations

import errno
import json
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
from typing import IO, Any
from urllib.request import Request, urlopen

from robustprune.errors import UsageError
from robustprune.tracking import views
from robustprune.tracking.options import ENVIRONMENT, check_exists, redact, scheme_of

HOST = "127.0.0.1"  # nobody else's business: MLflow's server asks for no password
_START, _STOP = 120.0, 10.0  # seconds that a start and a stop may take


class Server:
    """A running server.

    Attributes:
        address: where a browser finds it.
        runs: its page of experiments, in the mode that is for trained networks.
    """

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes], port: int) -> None:
        self.address = f"http://{HOST}:{port}"
        self.runs = f"{self.address}/#/experiments?workflowType=machine_learning"
        self._process, self._output, self._port = process, output, port

    def wait(self, *, answer: bool = False) -> None:
        """Wait without end, or for the first ``answer``: importing the server takes seconds.

        Raises:
            UsageError: it ended by itself or did not start; with the last error that it told.
        """
        limit = time.monotonic() + _START
        while not (answer and self._answers()):
            if (code := self._process.poll()) is not None:
                raise UsageError(f"MLflow's UI ended with code {code}.{self._last()}")
            if answer and time.monotonic() > limit:
                raise UsageError(f"MLflow's UI did not start within {_START:g} s.{self._last()}")
            time.sleep(0.1)  # a wait without end may miss a Ctrl-C that comes just before it

    def charts(self) -> tuple[str, str] | None:
        """The name and the charts of the experiment that was run last; None if none has any."""
        with suppress(OSError, ValueError, LookupError):  # the other page is there, at least
            found = self._ask("experiments/search", max_results=1000)["experiments"]
            ours = {
                experiment["experiment_id"]: experiment["name"]
                for experiment in found
                if any(tag["key"] == views.ACCURACIES for tag in experiment.get("tags", ()))
            }
            order = {"order_by": ["attributes.start_time DESC"], "max_results": 1}
            (run,) = self._ask("runs/search", experiment_ids=[*ours], **order)["runs"]
            last = run["info"]["experiment_id"]
            return ours[last], f"{self.address}/{views.page(last)}"
        return None

    def _ask(self, what: str, **fields: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        address = f"{self.address}/api/2.0/mlflow/{what}"
        with urlopen(Request(address, json.dumps(fields).encode(), headers), timeout=10) as answer:
            return json.load(answer)

    def _answers(self) -> bool:
        with socket.socket() as visitor:
            visitor.settimeout(1)
            return visitor.connect_ex((HOST, self._port)) == 0

    def _last(self) -> str:
        self._output.seek(0)
        text = redact(self._output.read().decode(errors="replace"))
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"[\w.]+(Error|Exception): ", line)]
        return "".join(f" It said: {line}" for line in (errors or lines)[-1:])


@contextmanager
def serve_ui(uri: str, *, port: int = 5000) -> Iterator[Server]:
    """Run ``mlflow ui`` on the store at ``uri`` until the block ends, on this machine only.

    Raises:
        UsageError: there is no store yet, the port is taken, or MLflow does not start; why is said.
    """
    check_exists(uri)
    if scheme_of(uri) in ("http", "https", "databricks"):
        raise UsageError(f"'{redact(uri)}' is a server, which has a UI of its own: open that.")
    try:
        socket.create_server((HOST, port)).close()
    except (OSError, OverflowError) as error:
        reason = os.strerror(getattr(error, "errno", errno.EINVAL)).lower()
        raise UsageError(
            f"port {port} cannot be had ({reason}). Choose another one, e.g. --port 5001."
        ) from None
    words = [sys.executable, "-m", "mlflow", "ui", "--host", HOST, "--port", str(port)]
    own = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # it may hold a password: no word of the command line
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # judges of language models and their like
        "MLFLOW_LOGGING_LEVEL": "ERROR",  # to be said if it does not start
        "PYTHONSAFEPATH": "1",  # nothing of the working directory is imported
    }
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*words, "--workers", "1"],
            env={**ENVIRONMENT, **os.environ, **own},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C is ours; the server is stopped, not interrupted
        )
        try:
            server = Server(process, output, port)
            server.wait(answer=True)
            yield server
        finally:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it has started."""
    end = getattr(os, "killpg", os.kill)  # Windows has no groups, and no SIGKILL
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with suppress(OSError):
            end(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP)
            return
