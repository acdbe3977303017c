"""The runs of one run folder in an MLflow store: opened or reopened, and nothing written twice.

Everything here talks to the store and waits for it; `Tracker` does that on a thread of its own.
Importing this imports MLflow: call `prepare_mlflow` first.
"""

from __future__ import annotations

import getpass
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.data.code_dataset_source import CodeDatasetSource
from mlflow.data.schema import TensorDatasetSchema
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.types import Schema, TensorSpec

from robustprune.files import lock, write_json
from robustprune.tracking import layout, views
from robustprune.tracking.models import log_model, logged_model
from robustprune.tracking.options import (
    TrackingOptions,
    error_line,
    local_path,
    scheme_of,
    store_uri,
)

_KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI's "Model training"


def connect(uri: str) -> MlflowClient:
    """A client of the store at ``uri``; a new SQLite store is made."""
    path = local_path(uri)
    if scheme_of(uri) != "sqlite" or path is None:
        return MlflowClient(tracking_uri=uri)
    with lock(path.with_name(f"{path.name}.lock"), wait=True):  # two runs may start at once
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)  # makes the tables of a new store
    return client


class Store:
    """The parent run and the network runs of ``folder``.

    Args:
        options: which store and experiment.
        folder: the run folder; ``state/mlflow.json`` in it keeps the run ids, so that a resumed
            run goes on in the same runs.
        runs: the folder that holds the default store.
        warn: told what was left out although the store works.
    """

    def __init__(
        self, options: TrackingOptions, *, folder: Path, runs: Path, warn: Callable[[str], None]
    ) -> None:
        self._uri = store_uri(options, runs)
        self._client = connect(self._uri)
        self._experiment, self._folder, self._warn = options.experiment, folder, warn
        self._ids_file = folder / "state" / "mlflow.json"
        self._ids = _read_ids(self._ids_file)
        self._open_runs: set[str] = set()  # networks' names
        self._results: Mapping[str, Any] = {}  # as far as they are known
        self._inputs: list[DatasetInput] = []
        self._test_images: dict[str, str] = {}
        self._images: Mapping[str, Any] | None = None  # a dataset that the networks take
        self._imports: Sequence[str] = ()
        self._models: dict[str, str] = {}  # run id -> model id
        self._written: dict[str, dict[str, set[int]]] = {}  # run id -> metric -> steps
        self._pending: dict[str, list[Metric]] = {}
        self._refused: set[str] = set()  # kinds of uploads that the store does not take

    def start(self, results: Mapping[str, Any]) -> str:
        """Open the parent run, or reopen it, and return its id.

        The datasets in ``results``, the content of ``results.json``, become inputs of all runs.
        """
        recipe = results.get("params") or {}
        source = {"data": recipe.get("data"), "seed": results.get("seed")}
        self._imports = recipe.get("imports") or ()
        for entry in results.get("datasets") or ():
            self._images = entry
            self._inputs.append(_dataset_input(entry, source))
            if entry["context"] == "test":
                self._test_images = {f"dataset_{key}": entry[key] for key in ("name", "digest")}
        return self._open(None, layout.run_name(results), *layout.describe_run(results))

    def network(self, entry: Mapping[str, Any], results: Mapping[str, Any]) -> None:
        """Open the run of a network, or reopen it, with its entry in ``results.json`` so far."""
        name = entry["name"]
        called = layout.network_name(entry, results)
        self._open(name, called, *layout.describe_network(entry, results))
        self._open_runs.add(name)
        self._results = results

    def metrics(
        self,
        network: str | None,
        values: Mapping[str, float],
        step: int = 0,
        timestamp: int | None = None,
    ) -> None:
        """Note finite numbers of a network (None: of the parent) for the next `flush`.

        A (name, step) that the run has is left out. Final ones are noted with the network's model,
        too, once there is one. ``timestamp`` is in milliseconds since 1970; now when None.
        """
        run_id = self._ids[network]
        when = int(time.time() * 1000) if timestamp is None else timestamp
        for name, value in values.items():
            key = layout.valid_name(name)
            steps = self._written[run_id].setdefault(key, set())
            if step not in steps:
                steps.add(step)
                about = {}
                if key.startswith("final/") and run_id in self._models:
                    about = {"model_id": self._models[run_id], **self._test_images}
                metric = Metric(key, value, when, step, **about)
                self._pending.setdefault(run_id, []).append(metric)

    def flush(self) -> None:
        """Write the metrics noted so far."""
        while self._pending:
            run_id, metrics = self._pending.popitem()
            self._client.log_batch(run_id, metrics=metrics, synchronous=True)

    def complete(self, entry: Mapping[str, Any]) -> None:
        """Record a network's model, final metrics and files, and close its run.

        A store that takes no models or no artifacts still gets the metrics.
        """
        name = entry["name"]
        if entry.get("model"):
            self._log_model(self._ids[name], self._folder / entry["model"])
        self.metrics(name, layout.final_metrics(entry))
        self._upload(name, layout.NETWORK_FILES)
        self._close(name, layout.ended(entry.get("alarms")))
        self._open_runs.discard(name)
        self._summarise()

    def finish(self, status: str) -> None:
        """Upload the run folder's files; close all open runs as FINISHED, FAILED or KILLED."""
        self._upload(None, layout.RUN_FILES)
        for network in (*self._open_runs, None):
            self._close(network, status)

    def _open(
        self, network: str | None, name: str, params: Mapping[str, Any], tags: Mapping[str, str]
    ) -> str:
        """Open a run; one that the store knows is reopened, and its parameters stay as they are."""
        run = self._recorded(network) or self._create(network, name)
        run_id: str = run.info.run_id
        if self._inputs:  # the store knows those that a run has already
            self._client.log_inputs(run_id, self._inputs)
        flat = layout.flatten(params).items()
        labels = {**tags, "folder": self._folder.resolve().name}
        self._client.log_batch(
            run_id,
            synchronous=True,
            params=[Param(k, layout.param_text(v)) for k, v in flat if k not in run.data.params],
            tags=[RunTag(key, value) for key, value in labels.items()],
        )
        return run_id

    def _summarise(self) -> None:
        """Note on the parent what has come out so far, and give the experiment views of that."""
        metrics, tags = layout.summary(self._results)
        run = self._client.get_run(self._ids[None])
        there, now = run.data, int(time.time() * 1000)
        new = {layout.valid_name(key): value for key, value in metrics.items()}
        self._client.log_batch(
            run.info.run_id,
            synchronous=True,
            metrics=[Metric(k, v, now, 0) for k, v in new.items() if there.metrics.get(k) != v],
            tags=[RunTag(key, text) for key, text in tags.items() if there.tags.get(key) != text],
        )
        self._attempt("views", self._set_views, run.info.experiment_id, now)

    def _set_views(self, experiment: str, now: int) -> None:
        tags = self._client.get_experiment(experiment).tags
        names = layout.accuracies(self._results.get("networks") or ())
        for key, text in views.view_tags(tags, names, experiment=experiment, now=now).items():
            self._client.set_experiment_tag(experiment, key, text)

    def _close(self, network: str | None, status: str) -> None:
        self.flush()
        self._client.set_terminated(self._ids[network], status)

    def _upload(self, network: str | None, names: Iterable[str]) -> None:
        client, run_id = self._client, self._ids[network]
        for name in names:
            path = self._folder / (network or "") / name
            if path.is_dir():
                self._attempt("artifacts", client.log_artifacts, run_id, str(path), name)
            elif path.exists():
                self._attempt("artifacts", client.log_artifact, run_id, str(path))

    def _log_model(self, run_id: str, path: Path) -> None:
        """Log a network's file as an MLflow model, once a run."""
        if run_id in self._models:
            return
        if not path.exists():
            self._warn(f"MLflow tracking: '{path}' does not exist and was not uploaded.")
            return
        run, code = self._client.get_run(run_id), (self._imports, self._folder / "imports")
        model = self._attempt("models", log_model, self._client, run, path, self._images, *code)
        if model is not None:
            self._models[run_id] = model

    def _attempt(self, kind: str, upload: Callable[..., Any], *arguments: Any) -> Any:
        """Upload something; where the store takes none of its kind, go on without."""
        if kind in self._refused:
            return None
        try:
            return upload(*arguments)
        except Exception as error:
            self._client.get_run(self._ids[None])  # raises when the store itself is gone
            self._refused.add(kind)
            self._warn(f"MLflow tracking goes on without {kind}: {error_line(error)}")
            return None

    def _recorded(self, network: str | None) -> Run | None:
        """The run that an earlier process recorded, running again; None if the store has none."""
        if (run_id := self._ids.get(network)) is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run_id, status="RUNNING")
        if (model := logged_model(self._client, run)) is not None:
            self._models[run_id] = model
        if run_id not in self._written:  # else what is pending is known, too
            self._written[run_id] = {
                key: {metric.step for metric in self._client.get_metric_history(run_id, key)}
                for key in run.data.metrics
            }
        return run

    def _create(self, network: str | None, name: str) -> Run:
        tags = {"mlflow.source.name": "robustprune", "mlflow.source.type": "LOCAL"}
        with suppress(Exception):  # a container's user may have no name
            tags["mlflow.user"] = getpass.getuser()
        if network is None:
            experiment = self._experiment_id()
            self._ids = {}  # a new parent knows nothing of the old one's children
        else:
            tags["mlflow.parentRunId"] = self._ids[None]
            experiment = self._client.get_run(self._ids[None]).info.experiment_id
        run = self._client.create_run(experiment, tags=tags, run_name=name)
        self._written[run.info.run_id] = {}
        self._ids[network] = run.info.run_id
        networks = {key: value for key, value in self._ids.items() if key is not None}
        write_json(self._ids_file, {"parent": self._ids[None], "networks": networks})
        return run

    def _experiment_id(self) -> str:
        name, client = self._experiment, self._client
        # Artifacts lie beside a SQLite store; MLflow would put them in the working directory.
        path = local_path(self._uri) if scheme_of(self._uri) == "sqlite" else None
        place = None if path is None else (path.absolute().parent / "mlartifacts").as_uri()
        try:
            return str(client.create_experiment(name, place, _KIND))
        except MlflowException:  # it may be there already
            if (found := client.get_experiment_by_name(name)) is None:
                raise
        if found.lifecycle_stage != "active":
            raise RuntimeError(
                f"the MLflow experiment '{name}' was deleted; restore it or set "
                "tracking.experiment to another name"
            )
        return str(found.experiment_id)


def _read_ids(file: Path) -> dict[str | None, str]:
    """Run ids by network, the parent's under None; none if the file is missing or damaged."""
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
        return {None: document["parent"], **document["networks"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _dataset_input(entry: Mapping[str, Any], source: Mapping[str, Any]) -> DatasetInput:
    """A run's input: what the images are, and the recipe's section that they can be had from."""
    texts = {key: json.dumps(value, default=str) for key, value in source.items()}
    images = TensorSpec(np.dtype(np.float32), (-1, *entry["shape"]), name="images")
    labels = TensorSpec(np.dtype(np.int64), (-1,), name="labels")
    schema = TensorDatasetSchema(Schema([images]), Schema([labels]))
    dataset = Dataset(
        name=entry["name"],
        digest=entry["digest"],
        source_type="code",
        source=CodeDatasetSource({"mlflow.source.name": "robustprune", **texts}).to_json(),
        schema=json.dumps(schema.to_dict()),
        profile=json.dumps({"num_rows": entry["images"], "classes": entry["classes"]}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", entry["context"])])
