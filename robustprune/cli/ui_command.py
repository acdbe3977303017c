"""``robustprune ui``."""

from __future__ import annotations

import signal
from argparse import Namespace
from pathlib import Path
from urllib.parse import urlsplit

from robustprune.errors import UsageError
from robustprune.tracking import RUNS, Console, TrackingOptions, serve_ui, store_uri
from robustprune.tracking.options import redact, scheme_of, sqlite_uri

_STORE = "mlflow.db"


def command(arguments: Namespace) -> None:
    """Show MLflow's UI until Ctrl-C."""
    uri = _store(arguments.store)
    console = Console()
    if scheme_of(uri) in ("http", "https"):
        address = urlsplit(uri)
        public = address._replace(netloc=address.netloc.rpartition("@")[2])  # without a password
        console.info(f"the store is a server; its UI is {public.geturl()}")
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        console.info(f"starting MLflow's UI on {redact(uri)} …")
        with serve_ui(uri, port=arguments.port) as server:
            console.info(f"open {server.runs}   (Ctrl-C ends it)")
            server.wait()
    except KeyboardInterrupt:
        console.info("stopped.")


def _store(given: str | None) -> str:
    """The address of the store that was named: an address, a file, a folder or a recipe."""
    if given is None:
        return store_uri(TrackingOptions(), RUNS)
    path = Path(given)
    if "://" in given or given == "databricks":
        return given
    if path.suffix in (".yaml", ".yml"):
        from robustprune.recipe import load_recipe

        return store_uri(load_recipe(path).tracking, RUNS)
    if path.is_dir():
        path = _near(path.absolute())
    return sqlite_uri(path.absolute())


def _near(folder: Path) -> Path:
    """The store of a runs folder, or of a run folder in it."""
    found = (place / _STORE for place in (folder, *folder.parents[:2]))
    store = next((path for path in found if path.is_file()), None)
    if store is None:
        raise UsageError(
            f"there is no {_STORE} in {folder}, nor in the two folders above it. Run a recipe "
            "first, or name the store: its file, or its address."
        )
    return store
