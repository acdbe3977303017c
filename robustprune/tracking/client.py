"""MLflow's client, made quiet, quick to fail and silent towards its makers."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from robustprune.errors import first_line
from robustprune.files import lock
from robustprune.tracking.options import local_path, redact, scheme_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

# A user's own values win. With MLflow's defaults one call to a dead server blocked 246 s.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for an hour
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # migrations of a new store; our warning tells of errors
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def environment(uri: str) -> dict[str, str]:
    """The variables that MLflow is to find for the store at ``uri``, unless the user has set them.

    A ``file`` store was asked for by name, so it is allowed although MLflow prefers SQLite.
    """
    allowed = {"MLFLOW_ALLOW_FILE_STORE": "true"} if scheme_of(uri) == "file" else {}
    return _ENVIRONMENT | allowed


def connect(uri: str) -> MlflowClient:
    """A client of the store at ``uri``. Imports MLflow; a new SQLite store is made."""
    for name, value in environment(uri).items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    path = local_path(uri)
    if scheme_of(uri) != "sqlite" or path is None:
        return MlflowClient(tracking_uri=uri)
    with lock(path.with_name(f"{path.name}.lock"), wait=True):  # two runs may start at once
        new = not path.exists() or not path.stat().st_size
        try:
            with _no_stray_folders(uri):
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)  # makes the tables of a new store
        except Exception:
            if new:  # on a full disk: half of its tables would keep all later runs out
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise
    return client


@contextmanager
def _no_stray_folders(uri: str) -> Iterator[None]:
    """Remove the folders that MLflow makes of a quoted address, which it takes for a path."""
    place = Path(uri.removeprefix("sqlite:///")).parent
    stray = [folder for folder in (place, *place.parents) if "%" in uri and not folder.exists()]
    try:
        yield
    finally:
        for folder in stray:
            with suppress(OSError):
                folder.rmdir()


@contextmanager
def quiet_retries() -> Iterator[None]:
    """Keep the HTTP library's retry warnings off the console, for the calling thread only."""
    thread = threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != thread

    logger = logging.getLogger("urllib3.connectionpool")
    logger.addFilter(from_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(from_elsewhere)


def sentence(error: BaseException) -> str:
    """An error as one line of at most 200 characters, without passwords."""
    text = redact(first_line(error, most=10_000))  # whole, or a password might be cut
    if unreachable := re.match(r"API request to (\w+://[^/\s]+)\S* failed with exception", text):
        return f"the server {unreachable[1]} does not answer"
    return text if len(text) <= 200 else f"{text[:199]}…"
