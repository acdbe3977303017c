"""Open MLflow's UI on the store that runs are recorded in.

Its address is printed, and it is served to this machine until Ctrl-C.

  robustprune ui                             the store of MLFLOW_TRACKING_URI, or runs/mlflow.db
  robustprune ui elsewhere/runs              the one of another runs folder, or of a run folder
  robustprune ui recipes/quickstart.yaml     the one that a recipe's tracking: names
  robustprune ui sqlite:///my.db --port 5001

It opens on the experiment that was run last: each pruned network's accuracies against
its density, in its pruner's colour, grouped by recipe over seeds. Another view, in the menu Views,
lists the runs by their best networks; a run's description is the table of its results. Tick
networks and press Compare for parallel coordinates.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from robustprune.cli.arguments import option
from robustprune.errors import UsageError
from robustprune.stopping import stoppable


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of this command."""
    text = "a runs folder, a store, or a recipe"
    parser.add_argument("store", nargs="?", metavar="STORE", help=text)
    option(parser, "--port N", "default: 5000", default=5000)


def command(arguments: Namespace) -> None:
    """Show MLflow's UI until Ctrl-C."""
    from robustprune import tracking
    from robustprune.tracking.options import redact

    uri = _store_uri(arguments.store)
    console = tracking.Console()
    try:
        with stoppable():
            console.info(f"starting MLflow's UI on {redact(uri)} …")
            with tracking.serve_ui(uri, port=arguments.port) as server:
                address, of = server.runs, ""
                if (last := server.charts()) is not None:
                    console.info(f"all experiments: {server.runs}")
                    address, of = last[1], f"the charts of '{last[0]}', which was run last; "
                console.info(f"open {address}   ({of}Ctrl-C ends it)")
                server.wait()
    except KeyboardInterrupt:
        console.info("stopped.")


def _store_uri(store: str | None) -> str:
    """Return the address of the store that was named: an address, a file, a folder or a recipe."""
    from robustprune.recipe import load_recipe
    from robustprune.tracking import RUNS, TrackingOptions, store_uri
    from robustprune.tracking.options import sqlite_uri

    if store is None:
        return store_uri(TrackingOptions(), RUNS)
    if "://" in store or store == "databricks":
        return store
    path = Path(store).absolute()
    if path.suffix in (".yaml", ".yml"):
        return store_uri(load_recipe(store).tracking, RUNS)
    if not path.is_dir():
        return sqlite_uri(path)
    for folder in (path, *path.parents[:2]):  # of the runs, or of a run among them
        if (file := folder / "mlflow.db").is_file():
            return sqlite_uri(file)
    raise UsageError(
        f"there is no mlflow.db in {path}, nor in the two folders above it. Run a recipe first, or "
        "name the store: its file, or its address."
    )
