from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import UsageError
from robustprune.pipeline.folder import RunFolder
from robustprune.recipe import Recipe, load_recipe
from tests.pipeline import tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(tiny.write(tmp_path))


def test_a_folder_at_work_keeps_others_out(recipe: Recipe, tmp_path: Path) -> None:
    where: dict[str, Any] = {"runs": tmp_path, "out": tmp_path / "run", "cut": {}}
    folder = RunFolder.begin(recipe, **where)
    with pytest.raises(UsageError, match=r"another process is running in .*run"):
        RunFolder.reopen(recipe, **where)
    folder.close()
    again = RunFolder.reopen(recipe, **where)
    assert again is not None
    assert again.resumed


def test_where_a_run_started_from_is_kept_as_it_was(recipe: Recipe, tmp_path: Path) -> None:
    where: dict[str, Any] = {"runs": tmp_path, "out": tmp_path / "run", "cut": {}}
    RunFolder.begin(recipe, **where, origin={"weights": "pretrained"}).close()
    again = RunFolder.reopen(recipe, **where)
    assert again is not None
    assert again.origin == {"weights": "pretrained"}


@pytest.mark.parametrize("name", [".", "state", "dense"])
def test_a_run_any_folder_of_which_takes_no_files_is_not_resumed(
    recipe: Recipe, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    where: dict[str, Any] = {"runs": tmp_path, "out": run, "cut": {}}
    RunFolder.begin(recipe, **where).close()
    (run / "dense").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != run / name)
    with pytest.raises(UsageError, match=f"Permission denied. Make {run / name} writable"):
        RunFolder.reopen(recipe, **where)
