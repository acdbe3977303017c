from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest

from robustprune.files import lock
from robustprune.tracking.client import connect


def test_one_process_at_a_time_makes_a_new_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            calls.append(tracking_uri)

        def search_experiments(self, **options: Any) -> None:
            with pytest.raises(BlockingIOError):
                lock(tmp_path / "runs" / "mlflow.db.lock", wait=False)
            calls.append(options)

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    uri = f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}"
    connect(uri)
    assert calls == [uri, {"max_results": 1}]
    lock(tmp_path / "runs" / "mlflow.db.lock", wait=False).close()


@pytest.mark.parametrize("content", ["", "tables of many runs"])
def test_only_a_store_that_was_begun_and_is_of_no_use_is_removed(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "mlflow.db"

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            store.write_text(content or "half of the tables")
            raise RuntimeError("database or disk is full")

    monkeypatch.setattr(mlflow, "MlflowClient", Client)
    store.write_text(content)
    with pytest.raises(RuntimeError, match="disk is full"):
        connect(f"sqlite:///{store}")
    assert store.exists() == bool(content)
