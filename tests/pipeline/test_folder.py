from __future__ import annotations

from pathlib import Path

import pytest

from robustprune.errors import UsageError
from robustprune.pipeline.folder import RunFolder
from robustprune.recipe import Recipe, load_recipe
from tests.pipeline import tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(tiny.write(tmp_path))


def opened(recipe: Recipe, path: Path, *, resume: bool) -> RunFolder:
    return RunFolder.open(recipe, runs=path.parent, out=path, resume=resume, cut={})


def test_a_folder_at_work_keeps_others_out(recipe: Recipe, tmp_path: Path) -> None:
    folder = opened(recipe, tmp_path / "run", resume=False)
    with pytest.raises(UsageError, match=r"another process is running in .*run"):
        opened(recipe, tmp_path / "run", resume=True)
    folder.close()
    assert opened(recipe, tmp_path / "run", resume=True).resumed
