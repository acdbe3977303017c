from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from robustprune.errors import UsageError
from robustprune.tracking import Tracker, TrackingOptions, import_run
from robustprune.tracking.options import error_line

from .sample import track, write_folder


@pytest.fixture
def dead() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def test_a_dead_server_costs_one_warning_and_little_time(dead: str, tmp_path: Path) -> None:
    warnings: list[str] = []
    tracker = Tracker(
        TrackingOptions(uri=dead), folder=tmp_path, runs=tmp_path, warn=warnings.append
    )
    began = time.monotonic()
    for _ in range(50):
        track(tracker)
    tracker.close()
    tracker.close()
    assert time.monotonic() - began < 60  # it waits 10; MLflow's own retries would take 246
    assert len(warnings) == 1
    assert "tracking stopped" in tracker.where
    assert dead not in tracker.where
    assert "import_run" in warnings[0]
    assert f"import_run('{tmp_path}', uri='{dead}')" in warnings[0]


@pytest.mark.slow
def test_a_silent_server_cannot_hold_up_the_end(tmp_path: Path) -> None:
    warnings: list[str] = []
    with socket.socket() as server:  # takes connections and never answers
        server.bind(("127.0.0.1", 0))
        server.listen()
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        tracker = Tracker(
            TrackingOptions(uri=uri), folder=tmp_path, runs=tmp_path, warn=warnings.append
        )
        track(tracker)
        began = time.monotonic()
        tracker.close(timeout=0.2)
        assert time.monotonic() - began < 60
    assert len(warnings) == 1
    assert "tracking stopped" in tracker.where


def test_importing_into_a_dead_server_is_the_users_fault(dead: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "runs" / "tiny" / "a")
    with pytest.raises(UsageError, match="cannot import into"):
        import_run(folder, uri=dead)


def test_an_experiment_without_a_name_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "runs" / "tiny" / "a")
    with pytest.raises(UsageError, match=r"experiment: .*''"):
        import_run(folder, experiment="")
    assert not (tmp_path / "runs" / "mlflow.db").exists()


def damage_experiment(folder: Path) -> None:
    (folder / "results.json").write_text(
        '{"networks": [], "params": {"tracking": {"experiment": 5}}}'
    )


def damage_missing(folder: Path) -> None:
    (folder / "results.json").unlink()


def damage_json(folder: Path) -> None:
    (folder / "results.json").write_text("{")


def damage_networks(folder: Path) -> None:
    (folder / "results.json").write_text('{"networks": [1]}')


def damage_model(folder: Path) -> None:
    (folder / "results.json").write_text('{"networks": [{"name": "a", "model": "../../b"}]}')


def damage_history(folder: Path) -> None:
    (folder / "dense" / "history.json").write_text('[{"epoch": 1}]')


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "give the folder of a finished run"),
        (damage_json, "Invalid JSON"),
        (damage_networks, r"results.json.*networks.0"),
        (damage_model, "is outside the run folder"),
        (damage_experiment, "experiment: .*5"),
        (damage_history, r"history.json.*0.stage: Field required"),
    ],
)
def test_a_damaged_folder_is_refused(
    damage: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "runs" / "tiny" / "a")
    damage(folder)
    with pytest.raises(UsageError, match=message):
        import_run(folder)


def test_switched_off_tracking_does_nothing(tmp_path: Path) -> None:
    before = threading.active_count()
    tracker = Tracker(
        TrackingOptions(enabled=False), folder=tmp_path, runs=tmp_path, warn=pytest.fail
    )
    track(tracker)
    tracker.close()
    assert threading.active_count() == before
    assert list(tmp_path.iterdir()) == []


def test_reasons_are_one_short_line_without_passwords() -> None:
    unreachable = "API request to http://me:pw@host:1/api/2.0/x failed with exception Http…"
    assert error_line(RuntimeError(unreachable)) == "the server http://***@host:1 does not answer"
    assert error_line(RuntimeError("first\nsecond")) == "first"
    assert len(error_line(RuntimeError("x" * 500))) == 200
    assert error_line(ValueError()) == "ValueError"
