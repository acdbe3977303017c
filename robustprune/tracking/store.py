"""The runs of one run folder in an MLflow store: opened or reopened, and nothing written twice.

Everything here talks to the store and waits for it; `Tracker` does that on a thread of its own.
"""

from __future__ import annotations

import contextlib
import getpass
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from robustprune.tracking import datasets as images
from robustprune.tracking.client import connect, sentence
from robustprune.tracking.ids import RunIds
from robustprune.tracking.layout import (
    TAG_LENGTH,
    finite,
    flatten,
    folder_tags,
    is_of_images,
    param_text,
    valid_name,
)
from robustprune.tracking.models import log_model, logged_model
from robustprune.tracking.options import TrackingOptions, local_path, scheme_of, store_uri

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

T = TypeVar("T")

_PARAMS_A_CALL, _METRICS_A_CALL = 100, 1000  # MLflow's limits
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # the UI's "Model training"
_UNKNOWN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


class Store:
    """The parent run and the network runs of ``folder``.

    Args:
        options: which store and experiment.
        folder: the run folder; ``state/mlflow.json`` in it keeps the run ids.
        runs: the folder that holds the default store.
        warn: told what was left out although the store works.
    """

    def __init__(
        self,
        *,
        options: TrackingOptions,
        folder: Path,
        runs: Path,
        warn: Callable[[str], None],
    ) -> None:
        self._uri = store_uri(options, runs)
        self._client = connect(self._uri)
        self._experiment = options.experiment
        self._tags = folder_tags(folder)
        self._ids = RunIds(folder / "state" / "mlflow.json")
        self._warn = warn
        self._opened: dict[str | None, str] = {}
        self._datasets: Sequence[Mapping[str, Any]] = ()
        self._imports: Sequence[str] = ()
        self._folder = folder
        self._models: dict[str, str] = {}  # run id -> model id
        self._written: dict[str, dict[str, set[int]]] = {}  # run id -> metric -> steps
        self._pending: dict[str, list[Metric]] = {}
        self._uploads = self._takes_models = True

    def open(
        self,
        network: str | None,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Open the run of ``network`` (None: the parent, to be opened first); returns its id.

        A recorded run that the store knows is reopened. Its parameters stay as they are. Every run
        is also tagged with the run folder's name.

        Args:
            network: whose run; None for the parent.
            name: what it is called.
            params: nested or flat.
            tags: by name.
            datasets: what `robustprune.tracking.datasets.described` gave, with the parent; its
                networks' runs are given the same.
        """
        run = self._recorded(network) or self._create(network, name)
        run_id: str = run.info.run_id
        self._opened[network] = run_id
        if network is None:
            self._datasets = datasets
        if self._datasets:  # the store knows those that a run has already
            self._client.log_inputs(run_id, images.inputs(self._datasets))
        flat = flatten(params)
        if network is None:
            self._imports = params.get("imports") or ()
        known = run.data.params
        new = {k: v for k, v in flat.items() if k not in known}
        self._describe(run_id, new, {**tags, **self._tags})
        return run_id

    def metrics(
        self,
        network: str | None,
        values: Mapping[str, float],
        *,
        step: int | None = None,
        timestamp: int | None = None,
    ) -> None:
        """Note metrics for the next `flush`. A (name, step) that the run has is left out.

        Final ones are noted with the network's model, too, once there is one.

        Args:
            network: whose; None for the parent.
            values: numbers by name; those that are not finite are left out.
            step: the epoch; 0 when None.
            timestamp: milliseconds since 1970; now when None.
        """
        from mlflow.entities import Metric

        run_id, at = self._run(network), step or 0
        when = int(time.time() * 1000) if timestamp is None else timestamp
        for key, value in finite(values).items():
            steps = self._written[run_id].setdefault(key, set())
            if at not in steps:
                steps.add(at)
                metric = Metric(key, value, when, at, **self._subject(run_id, key))
                self._pending.setdefault(run_id, []).append(metric)

    def flush(self) -> None:
        """Write the metrics noted so far."""
        while self._pending:
            run_id, metrics = self._pending.popitem()
            for chunk in _chunks(metrics, _METRICS_A_CALL):
                self._client.log_batch(run_id, metrics=chunk, synchronous=True)

    def artifact(self, network: str | None, path: Path, folder: str | None = None) -> None:
        """Upload a file, or a folder's content. If artifacts cannot be stored, metrics still are.

        Args:
            network: whose; None for the parent.
            path: what.
            folder: where in the run's artifacts; at the top when None.
        """
        run_id = self._run(network)
        if not self._uploads:
            return
        if not path.exists():
            self._warn(f"MLflow tracking: '{path}' does not exist and was not uploaded.")
            return
        upload = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        try:
            upload(run_id, str(path), folder)
        except Exception as error:
            self._client.get_run(run_id)  # raises when the store itself is gone
            self._uploads = False
            self._warn(f"MLflow tracking goes on without artifacts: {sentence(error)}")

    def model(self, network: str, path: Path) -> None:
        """Log a network's file as an MLflow model, once a run; a plain artifact if that fails."""
        run_id = self._run(network)
        if run_id in self._models or not self._uploads:
            return
        if not path.exists() or not self._takes_models:
            self.artifact(network, path)
            return
        run = self._client.get_run(run_id)
        try:
            self._models[run_id] = log_model(
                *(self._client, run, path),
                params=run.data.params,
                imports=self._imports,
                folder=self._folder,
                **images.form(self._datasets),
            )
        except Exception as error:
            self._client.get_run(run_id)  # raises when the store itself is gone
            self._takes_models = False
            self._warn(f"MLflow tracking goes on with files in place of models: {sentence(error)}")
            self.artifact(network, path)

    def finish(self, network: str | None, status: str) -> None:
        """Close a run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        self.flush()
        self._client.set_terminated(self._run(network), status)

    def _subject(self, run_id: str, metric: str) -> dict[str, str]:
        """What a metric is of: a final one of the model, and what was measured of test images."""
        model = self._models.get(run_id)
        if model is None or not metric.startswith("final/"):
            return {}
        test = images.test_set(self._datasets) if is_of_images(metric) else {}
        return {"model_id": model, **test}

    def _run(self, network: str | None) -> str:
        if network not in self._opened:
            raise RuntimeError(f"the run of {network or 'the recipe'} was never opened")
        return self._opened[network]

    def _recorded(self, network: str | None) -> Run | None:
        """The run that an earlier process recorded, running again; None if the store has none."""
        from mlflow.exceptions import MlflowException

        run_id = self._ids.get(network)
        if run_id is None:
            return None
        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code in _UNKNOWN:
                return None
            raise
        if run.info.lifecycle_stage != "active":
            return None
        self._client.update_run(run_id, status="RUNNING")
        if (model := logged_model(self._client, run)) is not None:
            self._models[run_id] = model
        self._written[run_id] = {
            key: {metric.step for metric in self._client.get_metric_history(run_id, key)}
            for key in run.data.metrics
        }
        return run

    def _create(self, network: str | None, name: str) -> Run:
        tags = {"mlflow.source.name": "robustprune", "mlflow.source.type": "LOCAL"}
        with contextlib.suppress(Exception):  # a container's user may have no name
            tags["mlflow.user"] = getpass.getuser()
        if network is None:
            experiment = self._experiment_id()
        else:
            parent = self._run(None)
            experiment = self._client.get_run(parent).info.experiment_id
            tags["mlflow.parentRunId"] = parent
        run = self._client.create_run(experiment, tags=tags, run_name=name)
        self._written[run.info.run_id] = {}
        self._ids.put(network, run.info.run_id)
        return run

    def _experiment_id(self) -> str:
        """The experiment's id; two runs that begin at once may both try to make it."""
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(self._experiment)
        if found is None:
            try:
                return str(
                    self._client.create_experiment(self._experiment, self._location(), _KIND)
                )
            except MlflowException:
                found = self._client.get_experiment_by_name(self._experiment)
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise RuntimeError(
                f"the MLflow experiment '{self._experiment}' was deleted; restore it or set "
                "tracking.experiment to another name"
            )
        return str(found.experiment_id)

    def _location(self) -> str | None:
        """Artifacts of a SQLite store lie beside it; MLflow would put them where one stands."""
        path = local_path(self._uri) if scheme_of(self._uri) == "sqlite" else None
        return None if path is None else (path.absolute().parent / "mlartifacts").as_uri()

    def _describe(self, run_id: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        new = [Param(key, param_text(value)) for key, value in params.items()]
        for chunk in _chunks(new, _PARAMS_A_CALL):
            self._client.log_batch(run_id, params=chunk, synchronous=True)
        labels = [RunTag(valid_name(k), str(v)[:TAG_LENGTH]) for k, v in tags.items()]
        for labels_chunk in _chunks(labels, _PARAMS_A_CALL):
            self._client.log_batch(run_id, tags=labels_chunk, synchronous=True)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[start : start + size] for start in range(0, len(items), size))
