"""Live tracking that never gets in the way: every call only puts a job on a queue.

One daemon thread works the queue off. When the store dies it says so once and drops the rest;
the run folder holds everything and can be imported later.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from robustprune.tracking.client import quiet_retries, sentence
from robustprune.tracking.layout import flatten
from robustprune.tracking.options import (
    TrackingOptions,
    check_store,
    describe_store,
    local_store,
    redact,
)
from robustprune.tracking.store import Store

Job = Callable[[Store], object]


class Tracker:
    """Records one run folder: a parent run for the recipe and a child run a network.

    Args:
        options: which store and experiment.
        folder: the run folder.
        runs: the folder that holds the default store.
        warn: told, once and possibly from another thread, that tracking has stopped.
    """

    def __init__(
        self,
        *,
        options: TrackingOptions,
        folder: Path,
        runs: Path,
        warn: Callable[[str], None],
    ) -> None:
        self._options, self._folder, self._runs = options, folder, runs
        self._tell = warn
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._closing = self._broken = self._warned = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)

    def start(
        self,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Open the parent run, or reopen it on resume. Call it first.

        Args:
            name: what it is called.
            params: nested or flat.
            tags: by name.
            datasets: what `describe_datasets` gave; all runs have them as inputs.
        """
        self._open(None, name, params, tags, list(datasets))
        if self._thread.ident is None:
            self._thread.start()

    def network(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Open the child run of a network, or reopen it."""
        self._open(name, name, params, tags)

    def metrics(
        self, network: str | None, values: Mapping[str, float], *, step: int | None = None
    ) -> None:
        """Record numbers of a network (None: of the parent) at an epoch.

        A (name, step) is recorded once; NaN and infinity are left out.
        """
        copied, now = dict(values), int(time.time() * 1000)
        self._put(lambda store: store.metrics(network, copied, step=step, timestamp=now))

    def model(self, network: str, path: Path) -> None:
        """Log a network's ``model.safetensors`` as an MLflow model. Its metrics come after it."""
        self._put(lambda store: store.model(network, path))

    def artifact(self, network: str | None, path: Path, folder: str | None = None) -> None:
        """Upload a file or a folder's content, into ``folder`` of the run's artifacts."""
        self._put(lambda store: store.artifact(network, path, folder))

    def finish(self, network: str | None, status: str) -> None:
        """Close a run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self._put(lambda store: store.finish(network, status))

    def close(self, *, timeout: float | None = None) -> None:
        """Wait at most ``timeout`` seconds for what is queued. Never raises.

        What the store did not take in time is dropped with a warning; later calls are ignored.
        When None: 10 s for a server, which may be dead, and 60 s for a store on this machine,
        which is not: making a new SQLite store alone took 11 s on a busy machine.
        """
        if timeout is None:
            local = local_store(self._options, self._runs) is not None
            timeout = 60.0 if local else 10.0
        self._closing = True
        if self._thread.ident is not None and not self._stopped.is_set():
            self._jobs.put(None)
            self._thread.join(timeout)
            if self._thread.is_alive():
                self._give_up(f"the store did not take everything within {timeout:g} s")
        self._stopped.set()

    @property
    def where(self) -> str:
        """Where the run is recorded, as a line for people; what has become of it, not the plan."""
        if self._broken:
            return "MLflow: tracking stopped, see the warning for how to import the run later"
        store = describe_store(self._options, self._runs)
        return f"{store}, without what the warnings name" if self._warned else store

    def _open(
        self,
        network: str | None,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        flat, labels = flatten(params), dict(tags)  # copies: the caller may go on changing its own
        self._put(
            lambda store: store.open(network, name, params=flat, tags=labels, datasets=datasets)
        )

    def _put(self, job: Job) -> None:
        if not self._stopped.is_set():
            self._jobs.put(job)

    def _work(self) -> None:
        try:
            with quiet_retries():
                store = Store(
                    options=self._options, folder=self._folder, runs=self._runs, warn=self._lack
                )
                self._drain(store)
        except Exception as error:  # whatever it is, training goes on
            self._give_up(sentence(error))

    def _drain(self, store: Store) -> None:
        while (job := self._jobs.get()) is not None:
            if self._stopped.is_set():
                return
            job(store)
            if self._jobs.empty():  # metrics wait for company while there is other work
                store.flush()
        store.flush()

    def _give_up(self, reason: str) -> None:
        with self._lock:
            if self._stopped.is_set():
                return
            self._broken = True
            self._stopped.set()
        uri = self._options.uri  # a recipe's address is not taken from the run folder
        into = f", uri={redact(uri)!r}" if uri else ""
        goes_on = "" if self._closing else "The run goes on without it. "
        self._warn(
            f"MLflow tracking stopped: {reason.rstrip('.')}. {goes_on}Import it later with "
            f"robustprune.tracking.import_run({str(self._folder)!r}{into})."
        )

    def _lack(self, text: str) -> None:
        self._warned = True
        self._warn(text)

    def _warn(self, text: str) -> None:
        with suppress(Exception):
            self._tell(text)


class NullTracker:
    """Records nothing."""

    where = "MLflow: off (tracking.enabled is false)"

    def start(
        self,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Do nothing."""

    def network(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Do nothing."""

    def metrics(
        self, network: str | None, values: Mapping[str, float], *, step: int | None = None
    ) -> None:
        """Do nothing."""

    def model(self, network: str, path: Path) -> None:
        """Do nothing."""

    def artifact(self, network: str | None, path: Path, folder: str | None = None) -> None:
        """Do nothing."""

    def finish(self, network: str | None, status: str) -> None:
        """Do nothing."""

    def close(self, *, timeout: float | None = None) -> None:
        """Do nothing."""


def open_tracker(
    options: TrackingOptions, *, folder: Path, runs: Path, warn: Callable[[str], None]
) -> Tracker | NullTracker:
    """The tracker that ``options`` ask for.

    Raises:
        UsageError: the store's address cannot work (see `check_store`).
    """
    if not options.enabled:
        return NullTracker()
    check_store(options, runs)
    return Tracker(options=options, folder=folder, runs=runs, warn=warn)
