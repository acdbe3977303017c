from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustprune.errors import MissingDependencyError, UsageError
from robustprune.tracking import TrackingOptions, check_store, describe_store, store_uri
from robustprune.tracking.options import local_path, redact

GOOD = [
    "sqlite:///{tmp}/new/folder/a.db",
    "http://localhost:5000",
    "https://user:secret@host/path",
    "postgresql+psycopg2://u:p@host/db",
    "databricks",
    "databricks://profile",
    "file:///{tmp}/files",
    "{tmp}/plain",
]


@pytest.fixture(autouse=True)
def no_address_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.mark.parametrize("uri", GOOD)
def test_good_addresses_pass(uri: str, tmp_path: Path) -> None:
    check_store(TrackingOptions(uri=uri.format(tmp=tmp_path)), tmp_path)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqllite:///a.db", "Did you mean 'sqlite'"),
        ("ftp://host/x", "unknown scheme 'ftp'"),
        ("http:///path", "names no host"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
        ("runs/mlflow.db", "write sqlite:///runs/mlflow.db"),
        ("sqlite:///{tmp}/taken/a.db", "not a writable folder"),
        ("{tmp}/taken", "not a writable folder"),
    ],
)
def test_bad_addresses_name_the_remedy(uri: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where a folder is needed")
    with pytest.raises(UsageError, match=message):
        check_store(TrackingOptions(uri=uri.format(tmp=tmp_path)), tmp_path)


def test_a_store_in_a_folder_that_takes_no_journal_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "a.db"
    store.touch()
    options = TrackingOptions(uri=f"sqlite:///{store}")
    check_store(options, tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) == store)
    with pytest.raises(UsageError, match=f"'{tmp_path}' is not a writable folder"):
        check_store(options, tmp_path)


def test_a_bad_address_does_not_matter_when_tracking_is_off(tmp_path: Path) -> None:
    check_store(TrackingOptions(uri="ftp://x", enabled=False), tmp_path)


def test_the_recipe_wins_over_the_environment_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store_uri(TrackingOptions(), tmp_path) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://env")
    assert store_uri(TrackingOptions(), tmp_path) == "http://env"
    assert store_uri(TrackingOptions(uri="http://recipe"), tmp_path) == "http://recipe"


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        (None, "sqlite:///runs/mlflow.db"),
        ("sqlite:///runs/a.db?timeout=5", "sqlite:///runs/a.db?timeout=5"),
        ("sqlite:////elsewhere/a.db", "sqlite:////elsewhere/a.db"),
        ("{tmp}/files", "files"),
        ("file://{tmp}/my%20files", "my files"),
        ("http://me:secret@host/x", "http://***@host/x"),
    ],
)
def test_the_store_is_told_in_short_and_without_passwords(
    uri: str | None, shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = TrackingOptions(experiment="e", uri=uri and uri.format(tmp=tmp_path))
    for runs in (Path("runs"), tmp_path / "runs"):
        assert describe_store(options, runs) == f"MLflow: {shown}, experiment 'e'"


def test_a_store_that_is_not_used_is_told_to_be_off(tmp_path: Path) -> None:
    assert "off" in describe_store(TrackingOptions(enabled=False), tmp_path)


def test_passwords_are_not_shown() -> None:
    assert redact("at http://me:secret@host/x") == "at http://***@host/x"


def test_importing_tracking_imports_no_mlflow() -> None:
    code = "import sys, robustprune.tracking; print({'mlflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["a b", "a#b", "a@b", "a&b=c", "ä 文", "a'b\"c", "a:b"])
def test_the_address_of_a_path_is_that_paths(name: str, tmp_path: Path) -> None:
    from sqlalchemy.engine import make_url

    uri = store_uri(TrackingOptions(), tmp_path / name)
    assert local_path(uri) == tmp_path / name / "mlflow.db"
    url = make_url(uri)
    assert (url.database, dict(url.query)) == (str(tmp_path / name / "mlflow.db"), {})


@pytest.mark.parametrize("uri", [None, "sqlite:///{tmp}/a%20b/a.db", "{tmp}/a%20b"])
def test_a_folder_that_mlflow_would_misread_is_refused(uri: str | None, tmp_path: Path) -> None:
    options = TrackingOptions(uri=uri and uri.format(tmp=tmp_path))
    with pytest.raises(UsageError, match=r"cannot open '.*%.*tracking.enabled to false"):
        check_store(options, tmp_path / "50%")


def test_tracking_without_mlflow_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependencyError, match=r"pip install mlflow.*tracking.enabled"):
        check_store(TrackingOptions(), tmp_path)
    check_store(TrackingOptions(enabled=False), tmp_path)
