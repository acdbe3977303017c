"""Going on with a run, and what is said when that cannot be."""

from __future__ import annotations

import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import InterruptedRun, UsageError
from robustprune.pruners import Method
from robustprune.training.loop import Trainer
from robustprune.training.state import StageState

from . import tiny
from .steps import interrupting

pytestmark = pytest.mark.slow

DENSE = {"prune": None, "finetune": None, "evaluate": []}


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(folder, tmp_path / "run"))


def test_a_finished_run_is_not_run_again(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    monkeypatch.setattr(Trainer, "train", unwanted)
    monkeypatch.setattr(sys.modules["robustprune.pipeline.evaluate"], "judge", unwanted)
    again = tiny.go(copied, resume=True)
    assert again.results == tiny.results(copied)
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: was 0, is 1"),
        ({"pretrain": {"optimizer": {"lr": 0.2}}}, "pretrain.optimizer.lr: was 0.1, is 0.2"),
        ({"prune": {"densities": [0.1]}}, r"densities: was \[0.1, 0.01\], is \[0.1\]"),
        ({"evaluate": [{"name": "clean"}]}, 'evaluate.1.eps: was 0.1, is "absent"'),
        ({"compute": {"threads": 2}}, "compute.threads: was 1, is 2"),
    ],
)
def test_another_recipe_is_refused_and_what_changed_is_named(
    copied: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        tiny.go(copied, change, resume=True)
    assert "without --resume" in str(caught.value)


def test_a_run_cut_to_some_steps_is_not_gone_on_with_uncut(copied: Path) -> None:
    with pytest.raises(UsageError, match="max_steps: was null, is 3"):
        tiny.go(copied, resume=True, max_steps=3)


def test_tracking_may_change(copied: Path) -> None:
    again = tiny.go(copied, {"tracking": {"experiment": "another"}}, resume=True)
    assert again.networks == tiny.results(copied)["networks"]


def test_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to resume.*tiny.*--out"):
        resume_newest(tmp_path)


def test_a_folder_that_is_not_there_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"nothing to resume in .*new\. Run without --resume"):
        tiny.go(tmp_path / "new", DENSE, resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_run_killed_before_it_was_noted_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    result = tiny.go(tmp_path / "new", DENSE, resume=True)
    assert tiny.models(result.folder).keys() == {"dense"}


def test_of_several_unfinished_runs_the_one_that_fits_is_found(
    tmp_path: Path, monkeypatch: Any
) -> None:
    folder = interrupted(tmp_path, monkeypatch, after=1)
    with pytest.raises(UsageError, match="no unfinished run there is of this recipe"):
        resume_newest(tmp_path, DENSE, {"seed": 5})
    assert resume_newest(tmp_path, DENSE).folder == folder


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UsageError, match=r"not empty.*--resume.*--out"):
        tiny.go(tmp_path)
    with pytest.raises(UsageError, match="holds no run that could be resumed"):
        tiny.go(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_finished_run_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(UsageError, match="is not empty"):
        tiny.go(folder)


@pytest.mark.parametrize("resume", [False, True])
def test_a_file_is_no_folder(tmp_path: Path, resume: bool) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"is a file\. Name a folder"):
        tiny.go(tmp_path / "file", resume=resume)


def test_below_a_file_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write to.*Not a directory.*--out"):
        tiny.go(tmp_path / "file" / "below")


def test_what_does_not_fit_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model 'test_vit' does not take"):
        tiny.go(tmp_path / "run", {"model": {"name": "test_vit"}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_newest_unfinished_run_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    finished = tiny.run(tiny.recipe(DENSE), runs=tmp_path, console=tiny.Console(quiet=True))
    folders = [interrupted(tmp_path, monkeypatch, after=steps) for steps in (1, 3)]
    assert len({finished.folder, *folders}) == 3
    assert resume_newest(tmp_path, DENSE).folder == folders[-1]
    assert resume_newest(tmp_path, DENSE).folder == folders[0]
    assert len({tiny.models(path)["dense"] for path in (finished.folder, *folders)}) == 1
    with pytest.raises(UsageError, match="nothing to resume"):
        resume_newest(tmp_path, DENSE)


def test_an_interrupted_run_says_where_it_is(tmp_path: Path, monkeypatch: Any) -> None:
    folder = interrupted(tmp_path, monkeypatch, after=2)
    assert folder.parent == tmp_path / "tiny"
    assert StageState.load(folder / "state" / "dense.pretrain.pt").epoch == 1  # type: ignore[union-attr]


class Planted:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("damage", ["truncated", "a pickle", "nothing"])
def test_a_damaged_state_is_named_and_nothing_in_it_is_executed(
    tmp_path: Path, monkeypatch: Any, damage: str
) -> None:
    folder = interrupted(tmp_path, monkeypatch, after=2)
    state = folder / "state" / "dense.pretrain.pt"
    planted = pickle.dumps(Planted(tmp_path / "executed"))
    content = {"truncated": state.read_bytes()[:1000], "a pickle": planted, "nothing": b""}
    state.write_bytes(content[damage])
    with pytest.raises(UsageError, match=r"dense\.pretrain\.pt is not a readable.*Delete it"):
        tiny.go(folder, DENSE, resume=True)
    assert not (tmp_path / "executed").exists()
    state.unlink()
    assert tiny.go(folder, DENSE, resume=True).networks[0]["name"] == "dense"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("state/run.json", "run.json cannot be read"),
        ("dense/model.safetensors", "not a whole safetensors file"),
        ("hydra-0.01/model.safetensors", "not a whole safetensors file"),
    ],
)
def test_damaged_files_are_named(copied: Path, file: str, message: str) -> None:
    path = copied / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match=message):
        tiny.go(copied, resume=True)


@pytest.mark.slow
def test_what_is_deleted_is_done_again_and_only_that(copied: Path, finished: Any) -> None:
    before = tiny.models(copied)
    shutil.rmtree(copied / "hydra-0.01")
    again = tiny.go(copied, resume=True)
    assert tiny.models(copied) == before
    assert again.networks == finished.networks


def interrupted(runs: Path, monkeypatch: pytest.MonkeyPatch, *, after: int) -> Path:
    """The folder of a run of the dense network that was stopped after so many steps."""
    with monkeypatch.context() as patch:
        patch.setattr(Method, "step", interrupting(after + 1))
        with pytest.raises(InterruptedRun) as caught:
            tiny.run(tiny.recipe(DENSE), runs=runs, fresh=True, console=tiny.Console(quiet=True))
    return Path(str(caught.value))


def resume_newest(runs: Path, *changes: Any) -> Any:
    recipe = tiny.recipe(*changes)
    return tiny.run(recipe, runs=runs, resume=True, fresh=True, console=tiny.Console(quiet=True))


def unwanted(*args: Any, **options: Any) -> None:
    raise AssertionError("done again")
