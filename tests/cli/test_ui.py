"""Which store the UI is opened on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from ..pipeline import tiny
from .conftest import Command


@pytest.fixture(autouse=True)
def no_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The stores and ports that the UI was asked for; it is interrupted at once."""
    asked: list[tuple[str, int]] = []

    def interrupt() -> None:
        raise KeyboardInterrupt

    @contextmanager
    def serve(uri: str, *, port: int) -> Iterator[SimpleNamespace]:
        asked.append((uri, port))
        charts = ("digits", "http://charts")
        yield SimpleNamespace(runs="http://here", charts=lambda: charts, wait=interrupt)

    monkeypatch.setattr("robustprune.tracking.serve_ui", serve)
    return asked


def test_without_a_word_it_is_the_one_that_runs_are_recorded_in(
    command: Command, here: Path, opened: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = command("ui")
    assert (said.code, said.err) == (0, "")
    assert "open http://charts   (the charts of 'digits', " in said.out
    assert "all experiments: http://here\n" in said.out
    assert said.out.endswith("stopped.\n")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    command("ui", "--port", "5001")
    assert opened == [
        (f"sqlite:///{here / 'runs' / 'mlflow.db'}", 5000),
        ("sqlite:///other.db", 5001),
    ]


def test_a_folder_a_run_a_file_an_address_or_a_recipe_names_it(
    command: Command, here: Path, opened: list[tuple[str, int]]
) -> None:
    run = here / "elsewhere" / "tiny" / "a"
    run.mkdir(parents=True)
    store = here / "elsewhere" / "mlflow.db"
    store.touch()
    recipe = tiny.write(here, {"tracking": {"uri": "postgresql://db/runs"}})
    for word in ("elsewhere", run, "elsewhere/mlflow.db", "sqlite:///x.db", recipe):
        assert command("ui", word).code == 0
    expected = [f"sqlite:///{store}"] * 3 + ["sqlite:///x.db", "postgresql://db/runs"]
    assert [uri for uri, _ in opened] == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("empty",), "no mlflow.db in"),
        (("nothing.db",), "no MLflow store"),
        ((), "robustprune run recipes/quickstart.yaml"),
        (("--port", "0"), "from 1 on"),
        (("--port", "70000", "store.db"), "--port 5001"),
        (("https://me:secret@host:1/mlflow",), "https://***@host:1/mlflow' is a server"),
    ],
)
def test_what_cannot_be_opened_is_the_users_fault(
    words: tuple[str, ...], message: str, command: Command, here: Path
) -> None:
    (here / "empty").mkdir()
    (here / "store.db").touch()
    said = command("ui", *words)
    assert said.code == 2
    assert message in said.err
