"""Folders whose names mean something in an address: everything lies where it was asked for."""

from __future__ import annotations

from pathlib import Path
from urllib.request import urlopen

import pytest

from robustprune.tracking import download_run, import_run, serve_ui, store_uri
from robustprune.tracking.client import connect
from robustprune.tracking.options import TrackingOptions

from .sample import write_folder
from .test_ui import port  # noqa: F401

NAME = "x#y?z%41 é&=@"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder of that name, with a run that has been recorded."""
    found = tmp_path_factory.mktemp("addresses") / NAME
    folder = write_folder(found / "tiny" / "a")
    warnings: list[str] = []
    import_run(folder, runs=found, warn=warnings.append)
    assert warnings == []
    return found


def test_nothing_lies_elsewhere(runs: Path) -> None:
    assert [path.name for path in runs.parent.iterdir()] == [NAME]
    assert (runs / "mlflow.db").stat().st_size
    assert list((runs / "mlartifacts").rglob("results.json"))


def test_what_was_recorded_comes_back(runs: Path, tmp_path: Path) -> None:
    folder = download_run("a", store_uri(TrackingOptions(), runs), tmp_path)
    assert (folder / "results.json").read_bytes() == (runs / "tiny/a/results.json").read_bytes()
    models = list(folder.rglob("*.safetensors"))
    assert models
    assert {path.read_bytes() for path in models} == {b"weights"}
    test_nothing_lies_elsewhere(runs)


def test_the_ui_shows_it(runs: Path, port: int) -> None:  # noqa: F811
    uri = store_uri(TrackingOptions(), runs)
    client = connect(uri)
    (run, *_) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    with serve_ui(uri, port=port) as server:
        query = f"/get-artifact?path=history.json&run_uuid={run.info.run_id}"
        with urlopen(server.address + query, timeout=30) as found:
            assert b"epoch" in found.read()
    test_nothing_lies_elsewhere(runs)


def test_a_plain_folder_is_a_store_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "runs" / "tiny" / "a")
    uri = str(tmp_path / "a%20b")
    import_run(folder, uri=uri, warn=pytest.fail)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a%20b", "runs"]
    assert (download_run("a", uri, tmp_path / "back") / "results.json").is_file()
