"""A run folder brought into a store afterwards: what live tracking missed, or all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustprune.errors import UsageError
from robustprune.tracking.client import quiet_retries, sentence
from robustprune.tracking.datasets import described
from robustprune.tracking.layout import (
    NETWORK_FILES,
    RUN_FILES,
    describe_network,
    describe_run,
    ended,
    final_metrics,
    recorded,
    run_name,
    stage_metrics,
    uploads,
)
from robustprune.tracking.options import TrackingOptions, check_store, redact, store_uri
from robustprune.tracking.runfolder import read_history, read_results
from robustprune.tracking.store import Store


def import_run(
    folder: str | Path,
    *,
    uri: str | None = None,
    experiment: str | None = None,
    options: TrackingOptions | None = None,
    runs: Path | None = None,
    warn: Callable[[str], None] = print,
) -> str:
    """Write a finished run folder to the store, and return the parent's run id.

    Runs that the folder knows and the store has are completed, so importing twice, or after live
    tracking broke off, writes nothing twice.

    Args:
        folder: ``runs/<recipe>/<id>``, with ``results.json``.
        uri: address of the store; that of ``options``, the environment's, or the default when None.
        experiment: its name; that of ``options``, or the recipe's when None.
        options: which store and experiment, as a recipe has them; ``enabled`` is not asked.
        runs: the folder that holds the default store; two above ``folder`` when None.
        warn: told what was left out, e.g. a model file that is gone.

    Raises:
        UsageError: not a run folder, no valid experiment, or the store cannot be reached.
    """
    folder = Path(folder)
    runs = folder.absolute().parent.parent if runs is None else runs
    results = read_results(folder)
    histories = {e["name"]: read_history(folder / e["name"]) for e in results["networks"]}
    if experiment is None and options is None:
        experiment = recorded(results, "tracking", "experiment")
    options = _destination(options or TrackingOptions(), uri, experiment)
    check_store(options, runs)
    try:
        with quiet_retries():
            store = Store(options=options, folder=folder, runs=runs, warn=warn)
            return _write(store, folder, results, histories)
    except Exception as error:
        where = redact(store_uri(options, runs))
        raise UsageError(f"cannot import into {where}: {sentence(error)}") from error


def _destination(
    options: TrackingOptions, uri: str | None, experiment: str | None
) -> TrackingOptions:
    # The uri is never the run folder's: it may come from elsewhere, and MLflow would send the
    # environment's credentials to the address.
    changes = {"uri": uri, "experiment": experiment}
    given = {key: value for key, value in changes.items() if value is not None}
    try:
        return TrackingOptions(**{**options.model_dump(), **given, "enabled": True})
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        raise UsageError(f"{name} {problem['input']!r}: {problem['msg']}.") from None


def _write(
    store: Store,
    folder: Path,
    results: Mapping[str, Any],
    histories: Mapping[str, list[Mapping[str, Any]]],
) -> str:
    params, tags = describe_run(results)
    found = described(results)
    parent = store.open(None, run_name(results), params=params, tags=tags, datasets=found)
    for entry in results["networks"]:
        name = entry["name"]
        params, tags = describe_network(entry, results)
        store.open(name, name, params=params, tags=tags)
        for line in histories[name]:
            store.metrics(name, stage_metrics(line["stage"], line["metrics"]), step=line["epoch"])
        if entry.get("model"):
            store.model(name, folder / entry["model"])
        store.metrics(name, final_metrics(entry))
        for path, place in uploads(folder / name, NETWORK_FILES):
            store.artifact(name, path, place)
        store.finish(name, ended(entry.get("alarms")))
    for path, place in uploads(folder, RUN_FILES):
        store.artifact(None, path, place)
    store.finish(None, ended(any(entry.get("alarms") for entry in results["networks"])))
    return parent
