"""The recipe's ``tracking:`` section, and where it says the runs are to be recorded."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field

from robustprune.errors import UsageError, nearest
from robustprune.parts import Options

RUNS = Path("runs")
"""Where run folders and the default MLflow store are kept."""

SCHEMES = ("sqlite", "http", "https", "file", "postgresql", "mysql", "mssql", "databricks")
"""What a tracking address may begin with. A plain path means ``file``."""


class TrackingOptions(Options):
    """Where MLflow records the runs. Tracking never stops or slows a training."""

    experiment: str = Field(default="robustprune", min_length=1, max_length=500)
    """Name of the MLflow experiment that the runs belong to; made when it does not exist."""

    uri: str | None = None
    """Address of the store, e.g. ``http://localhost:5000`` or ``sqlite:///runs/mlflow.db``.
    Without one: the environment's ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` in the runs folder.
    """

    enabled: bool = True
    """``false`` records nothing; the run folder can be imported later."""

    report: bool = True
    """Whether a page about the run, as ``robustprune report`` writes it, is drawn at its end and
    recorded with it."""


def store_uri(options: TrackingOptions, runs: Path) -> str:
    """The address of the store: the option's, the environment's, or SQLite in ``runs``."""
    named = options.uri or os.environ.get("MLFLOW_TRACKING_URI")
    if named and "%" in named and "://" not in named and scheme_of(named) == "file":
        return Path(named).absolute().as_uri()  # MLflow reads %20 in a plain path as a space
    return named or sqlite_uri((runs / "mlflow.db").absolute())


def sqlite_uri(path: Path) -> str:
    """The address of an SQLite file; what would mean something in an address is quoted.

    Raises:
        UsageError: this version of SQLAlchemy knows no address of such a path.
    """
    uri = f"sqlite:///{str(path).replace('%', '%25').replace('?', '%3F')}"
    if local_path(uri) != path:
        raise UsageError(
            f"tracking: SQLAlchemy cannot address '{path}', because of a % or ? in it. Choose "
            "another folder, or update SQLAlchemy to 2.1."
        )
    return uri


def local_store(options: TrackingOptions, runs: Path) -> Path | None:
    """The file or folder of this machine that the store is; None if it is a server."""
    return local_path(store_uri(options, runs))


def describe_store(options: TrackingOptions, runs: Path) -> str:
    """Where runs would be, as a line for people: without passwords, and short below the cwd.

    For example ``MLflow: sqlite:///runs/mlflow.db, experiment 'quickstart'``.
    """
    if not options.enabled:
        return "MLflow: off (tracking.enabled is false)"
    uri = store_uri(options, runs)
    path = local_path(uri)
    if path is not None and path.is_absolute() and path.is_relative_to(Path.cwd()):
        short = path.relative_to(Path.cwd())
        # A file: address is never relative, but a plain path means the same.
        uri = sqlite_uri(short) if scheme_of(uri) == "sqlite" else str(short)
    return f"MLflow: {redact(uri)}, experiment '{options.experiment}'"


def check_store(options: TrackingOptions, runs: Path) -> None:
    """Refuse an address that cannot work. Asks nobody and imports no MLflow: a dead server passes.

    Raises:
        UsageError: unknown scheme, no host, or a local store where nothing can be written.
    """
    if not options.enabled:
        return
    uri = store_uri(options, runs)
    scheme = scheme_of(uri)
    if scheme not in SCHEMES:
        raise UsageError(
            f"tracking uri '{redact(uri)}': unknown scheme '{scheme}'.{nearest(scheme, SCHEMES)}"
        )
    if scheme in ("http", "https") and not urlsplit(uri).hostname:
        raise UsageError(f"tracking uri '{redact(uri)}' names no host; write http://host:port.")
    path = local_path(uri)
    if path is not None:
        _check_writable(path, scheme)


def check_exists(uri: str) -> None:
    """Make sure that a store of this machine is there; a server is not asked.

    Raises:
        UsageError: there is none yet.
    """
    path = local_path(uri)
    if path is not None and not path.exists():
        raise UsageError(
            f"there is no MLflow store '{path}' yet. Run a recipe first (robustprune run "
            "recipes/quickstart.yaml), or name the store: its file, its runs folder or its address."
        )


def scheme_of(uri: str) -> str:
    """``sqlite`` of ``sqlite:///a.db``, ``postgresql`` of ``postgresql+psycopg2://…``."""
    if uri == "databricks":
        return uri
    found = re.match(r"([A-Za-z][\w.-]+)(?:\+\w+)?:", uri)  # one letter is a Windows drive
    return found[1].lower() if found else "file"


def local_path(uri: str) -> Path | None:
    """The file (SQLite) or folder (``file``) that the store lives in; None if it is a server."""
    scheme = scheme_of(uri)
    if scheme == "sqlite" and "%" in uri:
        from sqlalchemy.engine import make_url  # as it reads the address, so do we

        return Path(make_url(uri).database or "")
    if scheme == "sqlite":
        return Path(re.sub(r"^sqlite(\+\w+)?:/{0,3}", "", uri, flags=re.IGNORECASE).split("?")[0])
    if scheme != "file":
        return None
    return Path(unquote(urlsplit(uri).path)) if uri.lower().startswith("file:") else Path(uri)


def redact(text: str) -> str:
    """``text`` without the passwords of the addresses in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _check_writable(path: Path, scheme: str) -> None:
    if scheme == "sqlite" and (str(path) in (".", ":memory:") or path.is_dir()):
        raise UsageError(
            f"tracking uri: sqlite needs a file, got '{path}'; write sqlite:///runs/mlflow.db."
        )
    if scheme == "file" and path.suffix in (".db", ".sqlite", ".sqlite3"):
        raise UsageError(f"tracking uri '{path}' is a plain path; write sqlite:///{path}.")
    target = path.absolute()
    while not target.exists():
        target = target.parent
    wrong_kind = not target.is_dir() and (scheme == "file" or target != path.absolute())
    if not wrong_kind and target.is_file() and os.access(target, os.W_OK):
        target = target.parent  # SQLite writes its journal beside the file
    if wrong_kind or not os.access(target, os.W_OK):
        raise UsageError(
            f"tracking: cannot write '{path}', because '{target}' is not a writable "
            f"{'folder' if wrong_kind else 'place'}. Choose another runs folder or tracking.uri, "
            "or set tracking.enabled to false."
        )
