"""Runs between run folders and MLflow: brought into a store afterwards, or back from one.

Importing this imports MLflow: call `prepare_mlflow` first, as `robustprune.tracking` does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from pydantic import BaseModel, TypeAdapter, ValidationError

from robustprune.components import build
from robustprune.errors import UsageError
from robustprune.files import write_text
from robustprune.tracking import layout
from robustprune.tracking.models import DATA, logged_model
from robustprune.tracking.options import (
    RUNS,
    TrackingOptions,
    check_exists,
    check_store,
    error_line,
    redact,
    store_uri,
)
from robustprune.tracking.store import Store, connect

T = TypeVar("T")

_PARENT = "mlflow.parentRunId"


def import_run(
    folder: str | Path,
    *,
    uri: str | None = None,
    experiment: str | None = None,
    warn: Callable[[str], None] = print,
) -> str:
    """Write a finished run folder to the store, and return the parent's run id.

    Importing twice, or after live tracking broke off, writes nothing twice.

    Args:
        folder: ``runs/<recipe>/<id>``, with ``results.json``.
        uri: address of the store; the environment's, or the default two folders up, when None.
            Never the recipe's: the folder may come from elsewhere, and MLflow would send the
            environment's credentials to the address.
        experiment: its name; the recipe's when None.
        warn: told what was left out, e.g. a model file that is gone.

    Raises:
        UsageError: not a run folder, no valid experiment, or the store cannot be reached.
    """
    folder = Path(folder)
    runs = folder.absolute().parent.parent
    results = _read_results(folder)
    files = {e["name"]: folder / e["name"] / "history.json" for e in results["networks"]}
    histories = {name: _read(f, list[_Epoch]) if f.exists() else [] for name, f in files.items()}
    if experiment is None:
        experiment = results.get("params", {}).get("tracking", {}).get("experiment")
    given = {"uri": uri, "experiment": experiment}
    options = build(TrackingOptions, {k: v for k, v in given.items() if v is not None})
    check_store(options, runs)
    try:
        store = Store(options, folder=folder, runs=runs, warn=warn)
        parent = store.start(results)
        for entry in results["networks"]:
            name = entry["name"]
            store.network(entry, results)
            for line in histories[name]:
                store.metrics(name, layout.stage_metrics(line.stage, line.metrics), line.epoch)
            store.complete(entry)
        store.finish(layout.ended(any(entry.get("alarms") for entry in results["networks"])))
        return parent
    except Exception as error:
        where = redact(store_uri(options, runs))
        raise UsageError(f"cannot import into {where}: {error_line(error)}") from error


def download_run(name_or_id: str, uri: str | None, into: Path) -> Path:
    """Fetch a recipe's run into a folder in ``into``, laid out like a run folder, and return that.

    It is called like the parent run's id, and holds what was logged of the run folder's files and
    of each network's. Nothing that was downloaded is executed. The run is named by its id or that
    of a network's run, or by its name, its recipe's, or that of the run folder that it was logged
    from. The store is the environment's or the default if ``uri`` is None.

    Raises:
        UsageError: there is no such store or run, several runs fit, or it is no run of a recipe.
    """
    options = TrackingOptions(uri=uri)
    check_store(options, RUNS)
    uri = store_uri(options, RUNS)
    check_exists(uri)
    try:
        client = connect(uri)
        parent = _parent(client, name_or_id)
        folder = into / re.sub(r"\W", "_", parent.info.run_id)
        _fetch(client, uri, parent, folder)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot read from {redact(uri)}: {error_line(error)}") from error
    return folder


def _parent(client: MlflowClient, name_or_id: str) -> Run:
    if re.fullmatch(r"[0-9a-f]{32}", name_or_id):
        return client.get_parent_run(name_or_id) or client.get_run(name_or_id)
    quote = '"' if "'" in name_or_id else "'"
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = {
        run.info.run_id: run
        for key in ("run_name", "tags.folder", "tags.recipe", "params.name")
        for run in client.search_runs(experiments, f"{key} = {quote}{name_or_id}{quote}")
        if _PARENT not in run.data.tags
    }
    if not found:
        raise UsageError(
            f"the store has no recipe's run '{name_or_id}': neither a name nor an id of one."
        )
    if len(found) > 1:
        lines = "".join(
            f"\n  {key}  folder {run.data.tags.get('folder', '–')}, "
            f"seed {run.data.params.get('seed', '–')}"
            for key, run in list(found.items())[:10]
        )
        raise UsageError(f"{len(found)} runs are called '{name_or_id}'. Name one by its id:{lines}")
    return next(iter(found.values()))


def _fetch(client: MlflowClient, uri: str, parent: Run, folder: Path) -> None:
    _fetch_artifacts(client, parent, layout.RUN_FILES, folder)
    if not (folder / "results.json").is_file():
        raise UsageError(
            f"the run '{parent.info.run_name}' ({parent.info.run_id}) has no results.json: not a "
            "recipe's run, or not finished."
        )
    networks = _read_results(folder)["networks"]
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`{_PARENT}` = '{parent.info.run_id}'"
    )
    runs = {run.data.tags.get("network"): run for run in children}
    for entry in networks:
        if (run := runs.get(entry["name"])) is None:
            continue
        _fetch_artifacts(client, run, layout.NETWORK_FILES, folder / entry["name"])
        if entry.get("model") and (model := logged_model(client, run)) is not None:
            target = folder / entry["model"]
            target.parent.mkdir(parents=True, exist_ok=True)
            # Not models:/…, which asks the process's own store whatever tracking_uri says.
            address = f"{client.get_logged_model(model).artifact_location}/{DATA}/{target.name}"
            download_artifacts(artifact_uri=address, dst_path=str(target.parent), tracking_uri=uri)
    if parent.info.status == layout.ended(any(entry.get("alarms") for entry in networks)):
        write_text(folder / "state" / "finished", "")  # as in the run folder that it was


def _fetch_artifacts(client: MlflowClient, run: Run, names: Iterable[str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in client.list_artifacts(run.info.run_id):
        if file.path in names:
            client.download_artifacts(run.info.run_id, file.path, str(folder))


class _Network(BaseModel, extra="allow"):
    name: str
    model: str | None = None


class _Recipe(BaseModel, extra="allow"):
    tracking: dict[str, Any] = {}


class _Results(BaseModel, extra="allow"):
    networks: list[_Network]
    params: _Recipe = _Recipe()


class _Epoch(BaseModel):
    stage: str
    epoch: int
    metrics: dict[str, Any]


def _read_results(folder: Path) -> dict[str, Any]:
    """The content of ``results.json``, which may come from elsewhere and name paths outside."""
    results = _read(folder / "results.json", _Results).model_dump(exclude_unset=True)
    for entry in results["networks"]:
        for part in (entry["name"], entry.get("model") or ""):
            # Nothing outside the folder is read, uploaded or written.
            if not (folder / part).resolve().is_relative_to(folder.resolve()):
                raise UsageError(
                    f"'{folder / 'results.json'}': '{part}' is outside the run folder."
                )
    return results


def _read(path: Path, kind: type[T]) -> T:
    try:
        return TypeAdapter(kind).validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"cannot read '{path}' ({error.strerror}): give the folder of a finished run, "
            "runs/<recipe>/<id>."
        ) from None
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise UsageError(f"'{path}' is no file of a run: {place}: {problem['msg']}.") from None
