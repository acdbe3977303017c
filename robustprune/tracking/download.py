"""A run brought back from a store: what `import_run` does, the other way round."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustprune.errors import UsageError
from robustprune.files import write_text
from robustprune.tracking.client import connect, quiet_retries, sentence
from robustprune.tracking.console import Console
from robustprune.tracking.layout import NETWORK_FILES, RUN_FILES, ended
from robustprune.tracking.models import logged_model, model_file
from robustprune.tracking.options import (
    RUNS,
    TrackingOptions,
    check_exists,
    check_store,
    redact,
    store_uri,
)
from robustprune.tracking.runfolder import read_results

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_PARENT = "mlflow.parentRunId"


def download_run(
    name_or_id: str, uri: str | None, into: Path, *, console: Console | None = None
) -> Path:
    """Fetch a recipe's run and all its networks, and return a folder laid out like a run folder.

    It holds ``recipe.yaml``, ``results.json`` and what else the parent run has of a run folder's
    files, and each network's model, history and images as far as they were logged. Nothing that
    was downloaded is executed.

    Args:
        name_or_id: the MLflow id of the parent run or of a network's run, the parent's name, its
            recipe's, or that of the run folder that it was logged from.
        uri: address of the store; the environment's or the default if None.
        into: where the folder is made; it is called like the parent's id.
        console: shows a bar.

    Raises:
        UsageError: there is no such store or run, several runs fit, or it is no run of a recipe.
    """
    uri = store_uri(TrackingOptions(uri=uri), RUNS)
    check_store(TrackingOptions(uri=uri), RUNS)
    check_exists(uri)
    try:
        with quiet_retries():
            client = connect(uri)
            parent = _parent(client, name_or_id)
            folder = into / re.sub(r"\W", "_", parent.info.run_id)
            _fetch(client, uri, parent, folder, console or Console(quiet=True))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot read from {redact(uri)}: {sentence(error)}") from error
    return folder


def _fetch(client: MlflowClient, uri: str, parent: Run, folder: Path, console: Console) -> None:
    _artifacts(client, parent, RUN_FILES, folder)
    if not (folder / "results.json").is_file():
        raise UsageError(
            f"the run '{parent.info.run_name}' ({parent.info.run_id}) has no results.json: not a "
            "recipe's run, or not finished."
        )
    networks = read_results(folder)["networks"]
    runs = _children(client, parent)
    entries = [entry for entry in networks if entry["name"] in runs]
    with console.progress(f"downloading {parent.info.run_name}", len(entries), unit="network") as b:
        for entry in entries:
            run = runs[entry["name"]]
            _artifacts(client, run, NETWORK_FILES, folder / entry["name"])
            if entry.get("model"):
                _model(client, uri, run, folder / entry["model"])
            b.advance()
    if parent.info.status == ended(any(entry.get("alarms") for entry in networks)):
        write_text(folder / "state" / "finished", "")  # as in the run folder that it was


def _parent(client: MlflowClient, name_or_id: str) -> Run:
    if re.fullmatch(r"[0-9a-f]{32}", name_or_id):
        run = client.get_run(name_or_id)
        parent = run.data.tags.get(_PARENT)
        return run if parent is None else client.get_run(parent)
    quote = '"' if "'" in name_or_id else "'"
    filters = [
        f"{key} = {quote}{name_or_id}{quote}" for key in ("run_name", "tags.folder", "tags.recipe")
    ]
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = {
        run.info.run_id: run
        for text in filters
        for run in client.search_runs(experiments, text)
        if _PARENT not in run.data.tags
    }
    if len(found) == 1:
        return next(iter(found.values()))
    lines = "".join(f"\n  {key}  {_summary(run.data)}" for key, run in list(found.items())[:10])
    raise UsageError(
        f"{len(found)} runs are called '{name_or_id}'. Name one by its id:{lines}"
        if found
        else f"the store has no recipe's run '{name_or_id}': neither a name nor an id of one."
    )


def _summary(data: Any) -> str:
    """What tells runs of one recipe apart: the folder and the seed."""
    return f"folder {data.tags.get('folder', '–')}, seed {data.params.get('seed', '–')}"


def _children(client: MlflowClient, parent: Run) -> Mapping[str, Run]:
    text = f"tags.`{_PARENT}` = '{parent.info.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], text)
    return {run.data.tags["network"]: run for run in runs if "network" in run.data.tags}


def _artifacts(client: MlflowClient, run: Run, names: Iterable[str], folder: Path) -> None:
    """Those of ``names`` that a run has, into ``folder``."""
    there = {file.path for file in client.list_artifacts(run.info.run_id)}
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in there:
            client.download_artifacts(run.info.run_id, name, str(folder))


def _model(client: MlflowClient, uri: str, run: Run, target: Path) -> None:
    """A network's file: of the logged model, or the plain artifact that stands in for one."""
    from mlflow.artifacts import download_artifacts

    model = logged_model(client, run)
    if model is None:
        _artifacts(client, run, [target.name], target.parent)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as draft:
        # Not models:/…, which asks the process's own store whatever tracking_uri says.
        address = f"{client.get_logged_model(model).artifact_location}/{model_file(target.name)}"
        path = download_artifacts(artifact_uri=address, dst_path=draft, tracking_uri=uri)
        shutil.move(path, target)
