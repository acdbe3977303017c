from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustprune.errors import UsageError
from robustprune.tracking import download_run, import_run
from robustprune.tracking.store import connect

from .sample import RESULTS, write_folder

pytestmark = pytest.mark.slow


class World:
    """A store with one run twice, the second under another folder's name and seed."""

    def __init__(self, root: Path) -> None:
        self.uri = f"sqlite:///{root / 'mlflow.db'}"
        self.folder = write_folder(root / "tiny" / "first")
        self.id = import_run(self.folder, uri=self.uri)
        other = write_folder(root / "tiny" / "second")
        (other / "results.json").write_text(json.dumps({**RESULTS, "seed": 1}))
        self.other = import_run(other, uri=self.uri)
        self.client = connect(self.uri)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("store"))


def content(folder: Path) -> dict[str, bytes]:
    """Every file but the state's, by its path in the folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if not name.startswith("state")}


@pytest.mark.slow
def test_it_comes_back_as_it_was_and_can_be_imported_again(world: World, tmp_path: Path) -> None:
    folder = download_run(world.id, world.uri, tmp_path / "into")
    assert folder == tmp_path / "into" / world.id
    assert content(folder) == content(world.folder)
    assert "hydra-0.1/m.safetensors" in content(folder)
    assert (folder / "state" / "finished").exists()
    again = import_run(folder, uri=world.uri, experiment="again")
    assert world.client.get_run(again).info.run_name == "tiny, seed 0, cut at 7 steps a stage"
    world.client.delete_run(again)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first", "tiny, seed 0, cut at 7 steps a stage"])
def test_a_run_is_known_by_its_name_and_by_its_folders(
    name: str, world: World, tmp_path: Path
) -> None:
    assert download_run(name, world.uri, tmp_path).name == world.id


@pytest.mark.slow
def test_a_networks_run_stands_for_its_recipes(world: World, tmp_path: Path) -> None:
    ids = json.loads((world.folder / "state" / "mlflow.json").read_text())["networks"]
    assert download_run(ids["dense"], world.uri, tmp_path).name == world.id


@pytest.mark.parametrize("status", ["KILLED", "FAILED", "RUNNING"])
def test_a_run_that_was_not_finished_is_not_so_here(
    status: str, world: World, tmp_path: Path
) -> None:
    world.client.set_terminated(world.other, status)
    folder = download_run(world.other, world.uri, tmp_path)
    assert not (folder / "state" / "finished").exists()


def test_several_runs_of_one_recipe_are_told_apart(world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="2 runs are called 'tiny'") as raised:
        download_run("tiny", world.uri, tmp_path)
    assert f"{world.id}  folder first, seed 0" in str(raised.value)
    assert f"{world.other}  folder second, seed 1" in str(raised.value)


@pytest.mark.parametrize("name", ["nobody", "0" * 32, "it's", "a ' and a \"", "hydra-0.1"])
def test_an_unknown_run_is_the_users_fault(name: str, world: World, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no recipe's run|cannot read"):
        download_run(name, world.uri, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no MLflow store"):
        download_run("tiny", f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path)
    assert not list(tmp_path.iterdir())


def test_results_that_point_out_of_the_folder_are_refused(world: World, tmp_path: Path) -> None:
    experiment = world.client.create_experiment("hostile")
    run = world.client.create_run(experiment, run_name="hostile")
    outside = {"networks": [{"name": "../../evil", "model": "../../evil/m"}]}
    (tmp_path / "results.json").write_text(json.dumps(outside))
    world.client.log_artifact(run.info.run_id, str(tmp_path / "results.json"))
    with pytest.raises(UsageError, match="is outside the run folder"):
        download_run("hostile", world.uri, tmp_path / "into")
