"""Live tracking that never gets in the way: every call only puts a job on a queue.

One daemon thread works the queue off. When the store dies it says so once and drops the rest;
the run folder holds everything and can be imported later.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from operator import methodcaller
from pathlib import Path
from typing import Any

from robustprune.tracking.options import (
    TrackingOptions,
    check_store,
    describe_store,
    error_line,
    local_path,
    prepare_mlflow,
    redact,
    store_uri,
)


class Tracker:
    """Records one run folder: a parent run for the recipe and a child run for each network.

    Arguments and methods are those of `robustprune.tracking.store.Store`; methods return at once.
    Nothing is recorded where ``options`` switch tracking off. ``warn`` is told, once and possibly
    from another thread, that tracking has stopped, and how the run is recorded ``later``: by
    `import_run`, unless said otherwise. ``where`` is a line for people on where the run is
    recorded, or that it is not.

    Raises:
        UsageError: the store's address cannot work (see `check_store`).
    """

    def __init__(
        self,
        options: TrackingOptions,
        *,
        folder: Path,
        runs: Path,
        warn: Callable[[str], None],
        later: str = "",
    ) -> None:
        check_store(options, runs)
        self.where = describe_store(options, runs)
        self._options, self._folder, self._runs, self._tell = options, folder, runs, warn
        uri = (
            f", uri={redact(options.uri)!r}" if options.uri else ""
        )  # the run folder's is not taken
        self._later = later or (
            f"import it later with robustprune.tracking.import_run({str(folder)!r}{uri})"
        )
        self._jobs: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        if not options.enabled:
            self._stopped.set()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(self, results: Mapping[str, Any]) -> None:
        """Open the parent run, or reopen it on resume. Call it first."""
        self._put("start", results)

    def network(self, entry: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Open the child run of a network or, where it is open, note what is known of it now."""
        self._put("network", entry, results)

    def metrics(self, network: str | None, values: Mapping[str, float], *, step: int = 0) -> None:
        """Record numbers of a network (None: of the parent) at an epoch, each once."""
        self._put("metrics", network, values, step, int(time.time() * 1000))

    def complete(self, entry: Mapping[str, Any]) -> None:
        """Record a network's model, final numbers and files, and close its run."""
        self._put("complete", entry)

    def finish(self, status: str) -> None:
        """Close all that is open as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._put("finish", status)

    def close(self, *, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds for what is queued; the rest is dropped with a warning.

        When None: 10 s for a server, which may be dead, and 60 s for a store on this machine,
        which is not: making a new SQLite store alone took 11 s on a busy machine. Never raises.
        """
        if self._thread.ident is not None and not self._stopped.is_set():
            if timeout is None:
                timeout = 60.0 if local_path(store_uri(self._options, self._runs)) else 10.0
            self._jobs.put(None)
            self._thread.join(timeout)
            if self._thread.is_alive():
                self._give_up(f"the store did not take everything within {timeout:g} s")
        self._stopped.set()

    def _put(self, method: str, *arguments: Any) -> None:
        if not self._stopped.is_set():
            # Copies, for the caller may go on changing its own.
            self._jobs.put(methodcaller(method, *deepcopy(arguments)))
            if self._thread.ident is None:
                self._thread.start()

    def _work(self) -> None:
        try:
            prepare_mlflow()
            from robustprune.tracking.store import Store  # and MLflow: not in the run's way

            store = Store(self._options, folder=self._folder, runs=self._runs, warn=self._warn)
            while (job := self._jobs.get()) is not None:
                if self._stopped.is_set():
                    return
                job(store)
                if self._jobs.empty():  # metrics wait for company while there is other work
                    store.flush()
            store.flush()
        except Exception as error:  # whatever it is, training goes on
            self._give_up(error_line(error))

    def _give_up(self, reason: str) -> None:
        if self._stopped.is_set():
            return
        self._stopped.set()
        self.where = "MLflow: tracking stopped, see the warning for how to import the run later"
        self._warn(
            f"MLflow tracking stopped: {reason.rstrip('.')}. The run folder has everything; "
            f"{self._later}."
        )

    def _warn(self, text: str) -> None:
        with suppress(Exception):
            self._tell(text)
