from __future__ import annotations

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

from robustprune.artifacts.saved import save_model
from robustprune.models import create_model
from robustprune.recipe.imports import run_imports
from robustprune.tracking import Tracker, TrackingOptions, import_run

from .sample import RESULTS, track, write_folder


class World:
    """One store, made once (its migrations take seconds), and a run tracked live in it."""

    def __init__(self, root: Path) -> None:
        from mlflow import MlflowClient

        self.runs = root / "the runs x#y é&=@"  # which mean something in an address
        self.options = TrackingOptions(experiment="tests")
        self.folder = write_folder(self.runs / "tiny" / "live")
        self.warnings: list[str] = []
        tracker = self.tracker(self.folder)
        track(tracker)
        tracker.close(timeout=60)
        self.client = MlflowClient(tracking_uri=f"sqlite:///{self.runs / 'mlflow.db'}")

    def tracker(self, folder: Path) -> Tracker:
        return Tracker(self.options, folder=folder, runs=self.runs, warn=self.warnings.append)

    def ids(self, folder: Path) -> dict[str, str]:
        document = json.loads((folder / "state" / "mlflow.json").read_text())
        return {"parent": document["parent"], **document["networks"]}

    def experiment(self, run_id: str) -> str:
        run = self.client.get_run(run_id)
        return str(self.client.get_experiment(run.info.experiment_id).name)

    def seen(self, run_id: str) -> dict[str, Any]:
        """All that matters of a run, without ids and times."""
        run = self.client.get_run(run_id)
        steps = {
            key: [(m.step, m.value) for m in self.client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        }
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
        files = sorted(file.path for file in self.client.list_artifacts(run_id))
        info = (run.info.run_name, run.info.status)
        inputs = [
            (i.dataset.name, i.dataset.digest, i.dataset.source, i.dataset.schema, i.tags[0].value)
            for i in run.inputs.dataset_inputs
        ]
        return {"info": info, "metrics": steps, "params": run.data.params, "tags": tags} | {
            "files": files,
            "inputs": sorted(inputs),
            "models": [self.model(output.model_id) for output in run.outputs.model_outputs],
        }

    def model(self, model_id: str) -> dict[str, Any]:
        """All that matters of a logged model."""
        model = self.client.get_logged_model(model_id)
        files = [file.path for file in self.client.list_logged_model_artifacts(model_id)]
        metrics = {(m.key, m.value, m.dataset_name, m.dataset_digest) for m in model.metrics}
        return {"name": model.name, "status": str(model.status), "params": model.params} | {
            "files": sorted(files),
            "metrics": metrics,
        }


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(tmp_path_factory.mktemp("working-directory"))
        return World(tmp_path_factory.mktemp("store"))


@pytest.fixture(autouse=True)
def no_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.slow
def test_the_parent_is_the_recipe_and_holds_its_flat_parameters_and_files(world: World) -> None:
    seen = world.seen(world.ids(world.folder)["parent"])
    assert seen["info"] == ("tiny, seed 0, cut at 7 steps a stage", "FINISHED")
    assert seen["params"]["objective.eps"] == "0.03"
    assert seen["params"]["prune.densities"] == "[0.1]"
    assert seen["params"]["environment.threads"] == "2"
    assert seen["params"]["max_steps"] == "7"
    assert seen["metrics"]["best/clean"] == seen["metrics"]["final/clean/hydra-0.1"] == [(0, 0.4)]
    assert "| hydra-0.1 | 0.1 |" in seen["tags"]["mlflow.note.content"].replace("**", "")
    parts = {"pruner": "hydra", "objective": "pgd", "dataset": "digits", "model": "cnn_small"}
    assert {"robustprune": "0.1.0", "recipe": "tiny", **parts}.items() <= seen["tags"].items()
    assert {world.seen(i)["tags"]["folder"] for i in world.ids(world.folder).values()} == {"live"}
    assert seen["files"] == ["imports", "recipe.yaml", "results.json"]
    assert world.warnings == []


@pytest.mark.slow
def test_a_child_is_a_network_with_its_epochs_density_and_final_numbers(world: World) -> None:
    ids = world.ids(world.folder)
    child = world.client.get_run(ids["hydra-0.1"])
    seen = world.seen(ids["hydra-0.1"])
    assert child.data.tags["mlflow.parentRunId"] == ids["parent"]
    assert seen["info"] == ("hydra-0.1, seed 0", "FINISHED")
    parts = {"pruner": "hydra", "objective": "pgd", "dataset": "digits", "model": "cnn_small"}
    rest = {"density": "0.1", "seed": "0", "max_steps": "7", "weak.eps": "0.01"}
    assert seen["params"] == {**parts, **rest}
    assert parts.items() <= seen["tags"].items()
    assert seen["metrics"]["prune/loss"] == [(0, 2.0), (1, 1.0), (2, 0.0)]
    assert seen["metrics"]["final/density"] == [(0, 0.1)]
    assert seen["metrics"]["final/interval/clean_low"] == [(0, 0.3)]
    assert seen["metrics"]["final/turnover"] == [(0, 0.2)]
    assert seen["files"] == ["history.json", "images.parquet"]


@pytest.mark.slow
def test_an_epoch_that_is_told_again_before_it_was_written_is_there_once(
    world: World, tmp_path: Path
) -> None:
    from robustprune.tracking.store import Store

    store = Store(world.options, folder=tmp_path, runs=world.runs, warn=world.warnings.append)
    (tmp_path / "state").mkdir()
    store.start(RESULTS)
    for _ in range(2):
        store.network({"name": "a"}, RESULTS)
        store.metrics("a", {"val_loss": 1.0}, step=1)
    store.flush()
    assert world.seen(world.ids(tmp_path)["a"])["metrics"] == {"val_loss": [(1, 1.0)]}


def test_every_run_has_the_datasets_as_inputs(world: World) -> None:
    for run_id in world.ids(world.folder).values():
        training, test = world.seen(run_id)["inputs"]
        assert (*training[:2], training[-1]) == ("digits", "a" * 16, "training")
        assert (*test[:2], test[-1]) == ("digits", "b" * 16, "test")
        assert json.loads(test[2])["tags"]["data"] == '{"name": "digits"}'
        features = json.loads(json.loads(test[3])["mlflow_tensorspec"]["features"])
        assert features[0]["tensor-spec"] == {"dtype": "float32", "shape": [-1, 1, 8, 8]}


def test_a_network_is_a_model_with_what_was_measured_of_it(world: World) -> None:
    (model,) = world.seen(world.ids(world.folder)["hydra-0.1"])["models"]
    assert (model["name"], model["status"]) == ("hydra-0_1", "READY")
    assert model["params"]["density"] == "0.1"
    assert model["files"] == ["MLmodel", "data", "requirements.txt"]
    images = ("digits", "b" * 16)
    assert {("final/weak", 0.25, *images), ("final/turnover", 0.2, *images)} <= model["metrics"]
    assert not any(name.startswith("prune/") for name, *_ in model["metrics"])


def test_artifacts_lie_beside_the_store_and_not_where_one_stands(world: World) -> None:
    files = {path.name for path in (world.runs / "mlartifacts").rglob("*") if path.is_file()}
    own = {"m.safetensors", "recipe.yaml", "results.json", "mine.py"}
    assert files == own | {"history.json", "images.parquet", "MLmodel", "requirements.txt"}


def test_resume_goes_on_in_the_same_runs_and_logs_no_epoch_twice(world: World) -> None:
    folder = world.runs / "tiny" / "resumed"
    first = world.tracker(folder)
    first.start({"params": {"a": 1}})
    first.network({"name": "dense"}, {})
    for epoch in range(3):
        first.metrics("dense", {"pretrain/loss": 3.0 - epoch}, step=epoch)
    first.finish("KILLED")
    first.close(timeout=60)
    ids = world.ids(folder)
    assert world.seen(ids["dense"])["info"][1] == "KILLED"

    second = world.tracker(folder)
    second.start({"params": {"a": 2, "b": 3}})
    second.network({"name": "dense"}, {})
    for epoch in range(2, 5):
        second.metrics("dense", {"pretrain/loss": 9.0}, step=epoch)
    second.close(timeout=60)
    seen = world.seen(ids["dense"])
    assert world.ids(folder) == ids
    assert seen["info"][1] == "RUNNING"
    assert seen["metrics"]["pretrain/loss"] == [(0, 3.0), (1, 2.0), (2, 1.0), (3, 9.0), (4, 9.0)]
    assert world.seen(ids["parent"])["params"] == {"a": "1", "b": "3"}
    assert world.warnings == []


@pytest.mark.slow
def test_epochs_that_are_brought_in_later_are_not_of_the_model(world: World) -> None:
    folder = write_folder(world.runs / "tiny" / "late")
    history = folder / "dense" / "history.json"
    epochs = history.read_text()
    history.unlink()
    import_run(folder)
    history.write_text(epochs)
    import_run(folder)
    seen = world.seen(world.ids(folder)["dense"])
    assert len(seen["metrics"]["pretrain/loss"]) == 3
    (model,) = seen["models"]
    assert {name for name, *_ in model["metrics"]} == {"final/clean", "final/density"}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["unknown", "deleted"])
def test_runs_that_the_store_does_not_have_are_made_anew(world: World, how: str) -> None:
    folder = world.runs / "tiny" / how
    state = folder / "state" / "mlflow.json"
    if how == "unknown":
        state.parent.mkdir(parents=True)
        old = {"parent": "0" * 32, "dense": "1" * 32}
        document = {"parent": old["parent"], "networks": {"dense": old["dense"]}}
        state.write_text(json.dumps(document))
    else:
        import_run(write_folder(folder))
        old = world.ids(folder)
        world.client.delete_run(old["parent"])
    tracker = world.tracker(folder)
    tracker.start({})
    tracker.network({"name": "dense"}, {})
    tracker.close(timeout=60)
    new = world.ids(folder)
    assert set(new) == {"parent", "dense"}
    assert not set(new.values()) & set(old.values())
    assert world.warnings == []


@pytest.mark.slow
def test_an_imported_run_equals_the_one_tracked_live_and_imports_once(world: World) -> None:
    folder = world.runs / "copied" / "live"
    shutil.copytree(world.folder, folder, ignore=shutil.ignore_patterns("state"))
    parent = import_run(str(folder))  # the recipe's experiment
    live, imported = world.ids(world.folder), world.ids(folder)
    assert parent == imported["parent"]
    assert live.keys() == imported.keys()
    for name in live:
        assert world.seen(imported[name]) == world.seen(live[name])
        assert world.experiment(imported[name]) == "tests"
        assert imported[name] != live[name]
    assert import_run(folder) == parent
    assert world.seen(imported["hydra-0.1"]) == world.seen(live["hydra-0.1"])


def test_a_store_without_models_gets_the_rest(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def refuse(*_: object, **__: object) -> None:
        raise NotImplementedError("no such endpoint")

    monkeypatch.setattr(MlflowClient, "create_logged_model", refuse)
    warnings: list[str] = []
    folder = write_folder(world.runs / "tiny" / "no-models")
    import_run(folder, warn=warnings.append)
    assert warnings == ["MLflow tracking goes on without models: no such endpoint"]
    for name in ("dense", "hydra-0.1"):
        seen = world.seen(world.ids(folder)[name])
        assert seen["files"] == ["history.json", "images.parquet"]
        assert seen["metrics"]["final/clean"]


def test_a_store_and_an_experiment_can_be_named(world: World, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "elsewhere" / "tiny" / "a")
    parent = import_run(folder, uri=f"sqlite:///{world.runs / 'mlflow.db'}", experiment="named")
    assert world.experiment(parent) == "named"
    assert not (tmp_path / "elsewhere" / "mlflow.db").exists()


def test_a_missing_model_is_told_and_the_rest_goes_on(world: World) -> None:
    warnings: list[str] = []
    folder = world.runs / "tiny" / "missing"
    tracker = Tracker(world.options, folder=folder, runs=world.runs, warn=warnings.append)
    tracker.start({})
    tracker.network({"name": "dense"}, {})
    tracker.complete({"name": "dense", "model": "dense/nothing.safetensors"})
    tracker.metrics(None, {"x": 1.0})
    tracker.close(timeout=60)
    assert len(warnings) == 1
    assert "nothing.safetensors" in warnings[0]
    assert world.client.get_run(world.ids(folder)["parent"]).data.metrics == {"x": 1.0}


@pytest.mark.slow
def test_metrics_outlive_artifacts_that_cannot_be_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def refuse(*_: object) -> None:
        raise PermissionError("no right to write")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    warnings: list[str] = []
    folder = write_folder(world.runs / "tiny" / "no-artifacts")
    tracker = Tracker(world.options, folder=folder, runs=world.runs, warn=warnings.append)
    track(tracker)
    tracker.close(timeout=60)
    assert len(warnings) == 1
    assert "without artifacts: no right to write" in warnings[0]
    assert world.seen(world.ids(folder)["dense"])["info"] == ("dense, seed 0", "FINISHED")


NETWORK = """
from timm.models import register_model
from torch import nn


@register_model
def mine_in_mlflow(pretrained=False, num_classes=10, in_chans=1, **kwargs):
    return nn.Sequential(nn.Flatten(1), nn.Linear(64, num_classes))
"""
LOAD = """
import sys, mlflow, numpy
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(numpy.ones((2, 1, 8, 8), numpy.float32)).tolist())
"""


@pytest.mark.slow
def test_a_network_of_ones_own_is_loaded_where_its_recipe_is_not(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(NETWORK)
    assert run_imports(["mine.py"], tmp_path) == []
    results = {**RESULTS, "params": {**RESULTS["params"], "imports": ["../elsewhere/mine.py"]}}
    folder = write_folder(world.runs / "tiny" / "own", results)
    shutil.copy(tmp_path / "mine.py", folder / "imports")
    options = {"name": "mine_in_mlflow", "num_classes": 10, "in_chans": 1}
    model = create_model(**options).eval()
    for entry in results["networks"]:
        save_model(folder / entry["model"], model, masks={}, metadata={"model": options})
    import_run(folder, warn=world.warnings.append)
    run = world.client.get_run(world.ids(folder)["dense"])
    model_id = run.outputs.model_outputs[0].model_id
    place = world.client.get_logged_model(model_id).artifact_location.removeprefix("file://")
    place = unquote(place)
    command = [sys.executable, "-c", LOAD, place]
    found = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=tmp_path.parent
    )
    assert found.returncode == 0, found.stderr
    with torch.no_grad():
        expected = model(torch.ones(2, 1, 8, 8))
    assert torch.allclose(torch.tensor(json.loads(found.stdout)), expected)
    lines = (Path(place) / "requirements.txt").read_text().splitlines()
    names = {line.partition("==")[0] for line in lines if not line.startswith("#")}
    assert {"mlflow", "timm", "torch"} < names
    assert "robustprune" not in names  # no index has it
    assert all(version(name) for name in names)


@pytest.mark.slow
def test_two_runs_that_begin_at_once_make_one_store(tmp_path: Path) -> None:
    from robustprune.tracking.store import connect

    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    with ThreadPoolExecutor(2) as pool:
        clients = list(pool.map(connect, [uri, uri]))
    assert [len(client.search_experiments()) for client in clients] == [1, 1]
