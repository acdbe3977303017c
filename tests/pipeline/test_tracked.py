"""A run in MLflow: interrupted, gone on with, and finished in the same MLflow runs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

import robustprune as rp
from robustprune.errors import InterruptedRun
from robustprune.pipeline import RunResult
from robustprune.pruners import Method
from robustprune.tracking import Console

from . import tiny
from .steps import interrupting

pytestmark = pytest.mark.slow


CHANGES = (
    {"prune": {"methods": ["hydra"], "densities": [0.1]}},
    {"tracking": {"enabled": True, "experiment": "trial"}},
)
PARENT = "tiny, seed 0"


class Complaints(Console):
    """Keeps warnings, and shows nothing."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def console() -> Complaints:
    return Complaints()


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, console: Complaints) -> tuple[Any, RunResult]:
    """MLflow's client and the run; it was interrupted in the second epoch of finetuning."""
    folder = tmp_path_factory.mktemp("tracked") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Method, "step", interrupting(4, "finetune"))
        with pytest.raises(InterruptedRun):
            tiny.go(folder, *CHANGES, console=console)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    statuses = {name: run.info.status for name, run in runs(client).items()}
    assert statuses == {PARENT: "KILLED", "dense": "FINISHED", "hydra-0.1": "KILLED"}
    return client, tiny.go(folder, *CHANGES, console=console, resume=True)


def runs(client: Any) -> dict[str, Any]:
    """MLflow's runs by name, without the seed of a network's; no name twice."""
    experiment = client.get_experiment_by_name("trial")
    found = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.data.tags.get("network", run.info.run_name): run for run in found}


def test_its_report_is_recorded(tracked: tuple[Any, RunResult]) -> None:
    client, result = tracked
    page = result.folder / "report" / "report.html"
    assert "hydra-0.1" in page.read_text()
    assert "unfinished" not in page.read_text()
    assert result.page == page
    listed = client.list_artifacts(runs(client)[PARENT].info.run_id, "report")
    assert {Path(found.path).name for found in listed} == {p.name for p in page.parent.iterdir()}
    assert len(listed) > 1


@pytest.mark.slow
def test_a_run_does_not_fail_by_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise ZeroDivisionError("no ticks")

    monkeypatch.setattr("robustprune.pipeline.runner.write_report", broken)
    console = Complaints()
    small = {"prune": None, "finetune": None, "evaluate": []}
    store = {"tracking": {"enabled": True, "uri": f"sqlite:///{tmp_path / 'a.db'}"}}
    result = tiny.go(tmp_path / "run", small, store, console=console, max_steps=1)
    assert [network["name"] for network in result.networks] == ["dense"]
    (text,) = console.texts
    assert text.startswith("the report was not written: no ticks\n")
    assert text.endswith(f"robustprune report {result.folder}")
    quiet = Complaints()
    store["tracking"]["report"] = False
    tiny.go(tmp_path / "other", small, store, console=quiet, max_steps=1)
    assert quiet.texts == []


def test_there_is_a_parent_and_a_child_a_network(tracked: tuple[Any, RunResult]) -> None:
    found = runs(tracked[0])
    assert found.keys() == {PARENT, "dense", "hydra-0.1"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    parent = found[PARENT].info.run_id
    for name in ("dense", "hydra-0.1"):
        assert found[name].data.tags["mlflow.parentRunId"] == parent
        assert found[name].data.tags["network"] == name


def test_the_recipe_is_there_as_parameters(tracked: tuple[Any, RunResult]) -> None:
    params = runs(tracked[0])[PARENT].data.params
    assert params["objective.eps"] == "0.1"
    assert params["pretrain.optimizer.momentum"] == "0.9"
    assert params["environment.threads"] == "1"


def test_curves_have_each_epoch_once(tracked: tuple[Any, RunResult]) -> None:
    client, _ = tracked
    found = runs(client)
    stages = {"dense": ["pretrain"], "hydra-0.1": ["prune", "finetune"]}
    for name, run in found.items():
        for stage in stages.get(name, []):
            points = client.get_metric_history(run.info.run_id, f"{stage}/loss")
            assert sorted(point.step for point in points) == [1, 2]
    assert "prune/turnover" in found["hydra-0.1"].data.metrics
    assert "finetune/loss" not in found["dense"].data.metrics


def test_final_numbers_are_those_of_the_results(tracked: tuple[Any, RunResult]) -> None:
    client, result = tracked
    for entry in result.networks:
        metrics = runs(client)[entry["name"]].data.metrics
        assert metrics["final/density"] == entry["density"]
        assert metrics["final/kept"] == entry["kept"]
        assert metrics["final/pgd"] == entry["metrics"]["pgd"]
        assert metrics["final/interval/pgd_low"] == entry["metrics"]["pgd_interval"][0]


def test_the_parent_tells_what_came_out(tracked: tuple[Any, RunResult]) -> None:
    client, result = tracked
    parent = runs(client)[PARENT].data
    entry = result.network("hydra-0.1")
    assert parent.metrics["best/pgd"] == entry["metrics"]["pgd"]
    assert parent.metrics["final/pgd/dense"] == result.network("dense")["metrics"]["pgd"]
    columns, rows = result.table()
    table = parent.tags["mlflow.note.content"].replace("**", "").splitlines()
    assert [cell.strip() for cell in table[0].strip("|").split("|")] == columns
    assert [[c.strip() for c in line.strip("|").split("|")] for line in table[2:4]] == rows


def test_artifacts_are_the_files_of_the_folder(
    tracked: tuple[Any, RunResult], tmp_path: Path
) -> None:
    client, result = tracked
    files = {
        PARENT: {"recipe.yaml": "recipe.yaml", "results.json": "results.json"},
        "hydra-0.1": {file: f"hydra-0.1/{file}" for file in ("history.json", "images.parquet")},
    }
    for name, pairs in files.items():
        run_id = runs(client)[name].info.run_id
        assert {item.path for item in client.list_artifacts(run_id)} - {"report"} == pairs.keys()
        for artifact, file in pairs.items():
            path = Path(client.download_artifacts(run_id, artifact, str(tmp_path)))
            assert path.read_bytes() == (result.folder / file).read_bytes()


@pytest.mark.slow
def test_a_logged_model_predicts_the_same_as_its_file(
    tracked: tuple[Any, RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    client, result = tracked
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)
    images = next(iter(tiny.recipe().data.load(seed=0).test.ordered(64))).images
    for entry in result.networks:
        (output,) = runs(client)[entry["name"]].outputs.model_outputs
        model = mlflow.pyfunc.load_model(f"models:/{output.model_id}")
        own = rp.load_model(result.folder / entry["model"])
        with torch.no_grad():
            expected = own(images)
        found = model.predict(images.numpy())
        assert found.shape == (64, 10)
        assert torch.equal(torch.from_numpy(found), expected)
        assert model.get_raw_model().state_dict().keys() == own.state_dict().keys()


def test_a_wrong_shape_is_refused_by_the_models_signature(tracked: tuple[Any, RunResult]) -> None:
    import mlflow

    client, _ = tracked
    (output,) = runs(client)["dense"].outputs.model_outputs
    location = client.get_logged_model(output.model_id).artifact_location
    model = mlflow.pyfunc.load_model(location)
    with pytest.raises(mlflow.MlflowException, match="shape"):
        model.predict(torch.zeros(1, 3, 8, 8).numpy())


def test_the_inputs_are_the_splits(tracked: tuple[Any, RunResult]) -> None:
    client, result = tracked
    expected = {
        ("digits", entry["context"], entry["digest"]) for entry in result.results["datasets"]
    }
    sizes = {entry["context"]: entry["images"] for entry in result.results["datasets"]}
    assert sizes == {"training": 128, "test": 360}
    test = tiny.recipe().data.load(seed=0).test
    assert ("digits", "test", test.digest()) in expected
    for run in runs(client).values():
        found = run.inputs.dataset_inputs
        assert {(i.dataset.name, i.tags[0].value, i.dataset.digest) for i in found} == expected
        assert len(found) == 2  # resume has logged them a second time


def test_nothing_was_complained_about(tracked: tuple[Any, RunResult], console: Complaints) -> None:
    assert console.texts == []


def test_tracking_changes_no_bit(tracked: tuple[Any, RunResult], folder: Path) -> None:
    usual = tiny.models(folder)
    assert tiny.models(tracked[1].folder) == {n: usual[n] for n in ("dense", "hydra-0.1")}


@pytest.mark.slow
def test_a_dead_server_costs_one_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
    console = Complaints()
    tracking = {"enabled": True, "uri": uri}
    result = tiny.go(tmp_path / "run", tiny.SMALL, {"tracking": tracking}, console=console)
    assert [entry["name"] for entry in result.networks] == ["dense", "hydra-0.1"]
    (warning,) = console.texts
    assert f"the server {uri} does not answer" in warning
    assert str(result.folder) in warning
