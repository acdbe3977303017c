"""A run whose MLflow server is killed in the middle."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from robustprune.cli import main
from robustprune.errors import UsageError
from robustprune.pruners import Method
from robustprune.tracking import import_run, serve_ui
from robustprune.tracking.store import connect

from . import tiny
from .steps import watched

pytestmark = pytest.mark.slow

PATIENCE = 60.0
PHASES = {"dense": ["pretrain"], "hydra-0.1": ["prune", "finetune"]}


@pytest.fixture
def port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def serving(store: str, port: int) -> Iterator[Any]:
    with ExitStack() as running:
        try:
            server = running.enter_context(serve_ui(store, port=port))
        except UsageError as error:
            pytest.skip(f"MLflow's server does not start: {error}")
        yield server


def recorded(uri: str) -> dict[str, Any]:
    """MLflow's runs of the experiment, by name."""
    client = connect(uri)
    experiment = client.get_experiment_by_name("trial")
    found = client.search_runs([experiment.experiment_id]) if experiment else []
    return {run.data.tags.get("network", run.info.run_name): run for run in found}


def kill_once_it_knows_the_dense_network(server: Any) -> None:
    end = time.monotonic() + PATIENCE
    while (dense := recorded(server.address).get("dense")) is None or (
        "pretrain/loss" not in dense.data.metrics
    ):
        assert time.monotonic() < end, "nothing was recorded"
        time.sleep(0.05)
    os.killpg(server._process.pid, signal.SIGKILL)
    server._process.wait()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_the_run_ends_well_and_is_imported_when_the_server_is_back(
    tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store, uri = f"sqlite:///{tmp_path / 'server.db'}", f"http://127.0.0.1:{port}"
    connect(store)
    evaluate = {"evaluate": tiny.RECIPE["evaluate"]}
    tracking = {"tracking": {"enabled": True, "experiment": "trial", "uri": uri}}
    recipe = tiny.write(tmp_path, tiny.SMALL, evaluate, tracking)
    steps: list[str] = []

    with serving(store, port) as server:

        def kill(network: str, stage: str) -> None:
            steps.append(stage)
            if stage == "prune" and steps.count("prune") == 4:
                kill_once_it_knows_the_dense_network(server)

        monkeypatch.setattr(Method, "step", watched(kill))
        handler = signal.getsignal(signal.SIGTERM)
        code = main(["run", str(recipe), "--out", "run", "--fresh", "--quiet"])
        signal.signal(signal.SIGTERM, handler)
    assert code == 0
    assert steps.count("prune") == 4
    said = capsys.readouterr().err.splitlines()  # MLflow's migrations may speak, too
    (warning,) = [line for line in said if line.startswith("warning:")]
    assert f"MLflow tracking stopped: the server {uri} does not answer" in warning
    assert f"import_run('run', uri='{uri}')" in warning
    networks = tiny.results(tmp_path / "run")["networks"]
    assert [entry["name"] for entry in networks] == list(PHASES)
    assert all({"clean", "pgd"} <= entry["metrics"].keys() for entry in networks)
    with serving(store, port):
        import_run(tmp_path / "run", uri=uri)
        check_complete(uri, networks)


def check_complete(uri: str, networks: list[dict[str, Any]]) -> None:
    """Each epoch is there once, and so are the final numbers."""
    client, runs = connect(uri), recorded(uri)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for entry in networks:
        run = runs[entry["name"]]
        assert run.data.metrics["final/pgd"] == entry["metrics"]["pgd"]
        for stage in PHASES[entry["name"]]:
            points = client.get_metric_history(run.info.run_id, f"{stage}/loss")
            assert sorted(point.step for point in points) == [1, 2]
