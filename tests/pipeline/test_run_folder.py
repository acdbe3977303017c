from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import UsageError
from robustprune.pipeline.run_folder import RunFolder, run_of_job
from robustprune.recipe import Recipe, load_recipe
from robustprune.shard import Shard

from ..threads import each
from . import tiny


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return load_recipe(tiny.write(tmp_path))


def test_a_folder_at_work_keeps_others_out(recipe: Recipe, tmp_path: Path) -> None:
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    first.begin(recipe, cut={})
    with pytest.raises(UsageError, match=r"another process is running in .*run"):
        second.reopen(recipe)
    first.close()
    second.reopen(recipe)


def test_a_run_that_takes_no_files_is_not_resumed(recipe: Recipe, tmp_path: Path) -> None:
    folder, lock = RunFolder(tmp_path / "run"), tmp_path / "run" / "state" / "lock"
    folder.begin(recipe, cut={})
    folder.close()
    lock.unlink()
    lock.mkdir()
    with pytest.raises(UsageError, match=rf"cannot resume in .*run: .*\({lock}\)\. Mend that"):
        folder.reopen(recipe)


def test_only_the_main_process_reads_and_writes(recipe: Recipe, tmp_path: Path) -> None:
    """The second process is told of a folder that it could not have made itself."""

    def work(shard: Shard) -> list[Any]:
        folder = RunFolder(tmp_path / "run" if shard.is_main else Path("/nowhere"), shard=shard)
        folder.begin(recipe, cut={})
        folder.write_json(folder.results, {"environment": {"threads": shard.rank + 3}})
        found = [folder.threads, folder.finished, folder.has_model("dense")]
        folder.close()
        return found

    assert each(2, work) == [[3, False, False]] * 2


def test_a_job_that_is_started_anew_goes_on_in_its_own_folder_only(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, own = RunFolder(tmp_path / "tiny" / "other"), RunFolder(tmp_path / "tiny" / "an own")
    other.begin(recipe, cut={})
    other.close()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert run_of_job(recipe, runs=tmp_path, out=None) is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert run_of_job(recipe, runs=tmp_path, out=None) is None
    own.begin(recipe, cut={})
    assert run_of_job(recipe, runs=tmp_path, out=None) == own.path
    assert run_of_job(recipe, runs=tmp_path, out=other.path) is None
    other.reopen(recipe)
    assert run_of_job(recipe, runs=tmp_path, out=other.path) == other.path
