"""A run folder brought into a store afterwards: what live tracking missed, or all of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from robustprune.errors import UsageError
from robustprune.tracking.client import quiet_retries, sentence
from robustprune.tracking.layout import (
    describe_network,
    describe_run,
    final_metrics,
    phase_metrics,
    recorded,
)
from robustprune.tracking.options import TrackingOptions, check_store, redact, store_uri
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
    results = _json(folder / "results.json", dict)
    histories = {e["name"]: _history(folder / e["name"]) for e in _entries(results, folder)}
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
    parent = store.open(None, str(results.get("recipe", folder.name)), params=params, tags=tags)
    for entry in results["networks"]:
        name = entry["name"]
        params, tags = describe_network(entry, results)
        store.open(name, name, params=params, tags=tags)
        for line in histories[name]:
            store.metrics(name, phase_metrics(line["phase"], line["metrics"]), step=line["epoch"])
        store.metrics(name, final_metrics(entry))
        if entry.get("model"):
            store.artifact(name, folder / entry["model"])
        store.finish(name, "FINISHED")
    for path in (folder / "recipe.yaml", folder / "results.json"):
        if path.exists():
            store.artifact(None, path)
    store.finish(None, "FINISHED")
    return parent


def _entries(results: Mapping[str, Any], folder: Path) -> list[Mapping[str, Any]]:
    entries = results.get("networks")
    if not isinstance(entries, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("name"), str) for entry in entries
    ):
        raise UsageError(f"'{folder / 'results.json'}' lists no networks: not a file of a run.")
    for part in (entry[key] for entry in entries for key in ("name", "model") if entry.get(key)):
        # The file may come from elsewhere: nothing outside the folder is read or uploaded.
        if not (folder / str(part)).resolve().is_relative_to(folder.resolve()):
            raise UsageError(f"'{folder / 'results.json'}': '{part}' lies outside the run folder.")
    return entries


def _history(folder: Path) -> list[Mapping[str, Any]]:
    path = folder / "history.json"
    if not path.exists():
        return []
    lines: list[Mapping[str, Any]] = _json(path, list)
    needed = {"phase", "epoch", "metrics"}
    if not all(isinstance(line, dict) and needed <= line.keys() for line in lines):
        raise UsageError(f"'{path}': every entry needs phase, epoch and metrics.")
    return lines


def _json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read '{path}' ({error.strerror}): give the folder of a finished run, "
            "runs/<recipe>/<id>."
        ) from None
    except ValueError as error:
        raise UsageError(f"'{path}' is not valid JSON: {error}.") from None
    if not isinstance(content, kind):
        raise UsageError(f"'{path}' holds no {kind.__name__}: not a file of a run.")
    return content
