"""The recipe's ``tracking:`` section, the store that it means, and how MLflow is set up for it."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field

from robustprune.components import Options
from robustprune.errors import MissingDependencyError, UsageError, first_line, nearest

RUNS = Path("runs")
"""Where run folders and the default MLflow store are kept."""

SCHEMES = ("sqlite", "http", "https", "file", "postgresql", "mysql", "mssql", "databricks")
"""Schemes of tracking addresses. A plain path means ``file``."""

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # With MLflow's defaults one call to a dead server blocked 246 s.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",  # a server may ask for an hour
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # migrations of a new store; our warning tells of errors
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ALLOW_FILE_STORE": "true",  # where one was asked for, although MLflow prefers SQLite
}
"""Variables that MLflow is to find, unless the user has set them."""


class TrackingOptions(Options):
    """Where MLflow records the runs. Tracking never stops or slows a training."""

    libraries = ("mlflow",)
    install = "pip install mlflow\nor set tracking.enabled to false"

    experiment: str = Field(default="robustprune", min_length=1, max_length=500)
    """Name of the MLflow experiment that the runs belong to; made when it does not exist."""

    uri: str | None = None
    """Address of the store, e.g. ``http://localhost:5000`` or ``sqlite:///runs/mlflow.db``.
    Without one: the environment's ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the runs folder.
    """

    enabled: bool = True
    """``false`` records nothing; the run folder can be imported later."""

    report: bool = True
    """Draw a page about the run at its end, as ``robustprune report`` does, and record it too."""

    def requires(self) -> tuple[str, ...]:
        """MLflow, if it records anything."""
        return self.libraries if self.enabled else ()


def store_uri(options: TrackingOptions, runs: Path) -> str:
    """The address of the store: the option's, the environment's, or SQLite in ``runs``."""
    named = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
    return named or sqlite_uri((runs / "mlflow.db").absolute())


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file; a `UsageError` if none means it, because of its characters."""
    if re.search(r"[%?]", str(path)):
        raise UsageError(
            f"tracking: MLflow cannot open '{path}', because of the % or ? in it. Choose another "
            "folder or tracking.uri, or set tracking.enabled to false."
        )
    return f"sqlite:///{path}"


def describe_store(options: TrackingOptions, runs: Path) -> str:
    """A line for people on where runs would be: without passwords, and short below the cwd."""
    if not options.enabled:
        return "MLflow: off (tracking.enabled is false)"
    uri = redact(store_uri(options, runs))
    if uri.lower().startswith("file:"):
        uri = str(local_path(uri))  # a plain path means the same
    return f"MLflow: {uri.replace(f'{Path.cwd()}/', '')}, experiment '{options.experiment}'"


def check_store(options: TrackingOptions, runs: Path) -> None:
    """Refuse an address that cannot work; nobody is asked, so that a dead server passes.

    Raises:
        UsageError: unknown scheme, no host, nothing can be written, or MLflow is not installed.
    """
    if not options.enabled:
        return
    require_mlflow()
    uri = store_uri(options, runs)
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        raise UsageError(
            f"tracking uri '{redact(uri)}': unknown scheme '{scheme}'.{nearest(scheme, SCHEMES)}"
        )
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise UsageError(f"tracking uri '{redact(uri)}' names no host; write http://host:port.")
    if (path := local_path(uri)) is None:
        return
    if not uri.lower().startswith("file:"):  # in which %20 is a space, as for MLflow
        sqlite_uri(path)
    if scheme == "sqlite" and (str(path) in (".", ":memory:") or path.is_dir()):
        raise UsageError(
            f"tracking uri: sqlite needs a file, got '{path}'; write sqlite:///runs/mlflow.db."
        )
    if scheme == "file" and path.suffix in (".db", ".sqlite", ".sqlite3"):
        raise UsageError(f"tracking uri '{path}' is a plain path; write sqlite:///{path}.")
    path = path.absolute()
    folder = path.parent if scheme == "sqlite" else path  # SQLite's journal lies beside the file
    there = next(place for place in (folder, *folder.parents) if place.exists())
    writable = all(os.access(place, os.W_OK) for place in (there, path) if place.exists())
    if not there.is_dir() or not writable:
        raise UsageError(
            f"tracking: cannot write '{path}', because '{there}' is not a writable folder, or the "
            "store itself is not writable. Choose another runs folder or tracking.uri, or set "
            "tracking.enabled to false."
        )


def check_exists(uri: str) -> None:
    """Raise a `UsageError` if a store of this machine is not there yet; a server is not asked."""
    path = local_path(uri)
    if path is not None and not path.exists():
        raise UsageError(
            f"there is no MLflow store '{path}' yet. Run a recipe first (robustprune run "
            "recipes/quickstart.yaml), or name the store: its file, its runs folder or its address."
        )


def require_mlflow() -> None:
    """Make sure that MLflow is installed, or raise a `MissingDependencyError`."""
    if importlib.util.find_spec("mlflow") is None:
        raise MissingDependencyError(
            "tracking needs MLflow, which is not installed. Install it (pip install mlflow), or "
            "set tracking.enabled to false."
        )


def prepare_mlflow() -> None:
    """Set the environment that MLflow reads when it is imported, which is next."""
    require_mlflow()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Our own warning tells of a server that is dead, and not of each time that it was asked.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)


def scheme_of(uri: str) -> str:
    """``sqlite`` of ``sqlite:///a.db``, ``postgresql`` of ``postgresql+psycopg2://…``."""
    if uri == "databricks":
        return uri
    found = re.match(r"([A-Za-z][\w.-]+)(?:\+\w+)?:", uri)  # one letter is a Windows drive
    return found[1].lower() if found else "file"


def local_path(uri: str) -> Path | None:
    """The file (SQLite) or folder (``file``) that the store lives in; None if it is a server."""
    scheme = scheme_of(uri)
    if scheme == "sqlite":
        return Path(re.sub(r"^sqlite(\+\w+)?:/{0,3}", "", uri, flags=re.IGNORECASE).split("?")[0])
    if scheme != "file":
        return None
    return Path(unquote(urlsplit(uri).path)) if uri.lower().startswith("file:") else Path(uri)


def redact(text: str) -> str:
    """``text`` without the passwords of the addresses in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def error_line(error: BaseException) -> str:
    """An error as one line of at most 200 characters, without passwords."""
    text = redact(first_line(error, most=10_000))  # whole, or a password might be cut
    if unreachable := re.match(r"API request to (\w+://[^/\s]+)\S* failed with exception", text):
        return f"the server {unreachable[1]} does not answer"
    return text if len(text) <= 200 else f"{text[:199]}…"
