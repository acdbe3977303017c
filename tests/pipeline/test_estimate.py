from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from robustprune.cli import main
from robustprune.pipeline.estimate import Estimate, Stopwatch
from robustprune.pipeline.plan import plan, works
from robustprune.tracking.progress import Work

from . import tiny


def test_each_lap_is_the_time_since_the_one_before() -> None:
    now = iter([0.0, 10.0, 12.0, 15.0, 20.0, 21.0])
    watch = Stopwatch(clock=lambda: next(now))
    watch.begin("dense", "pretrain")
    watch.advance(1)
    watch.advance(1)
    watch.begin("hydra-0.1", "prune")
    watch.advance(2)
    assert watch.laps == {("dense", "pretrain"): [2.0, 3.0], ("hydra-0.1", "prune"): [0.5]}


@pytest.mark.parametrize(("of", "step", "prune"), [(min, 1.0, 4.0), (max, 3.0, 6.0)])
def test_the_time_is_that_of_all_steps_and_images(
    of: Callable[[list[float]], float], step: float, prune: float
) -> None:
    pretrain = Work("dense", "pretrain", 10)
    pruning = [Work(f"hydra-{density}", "prune", 20, "hydra") for density in (0.1, 0.01)]
    clean = Work("dense", "clean", 50, judges=True)
    found = Estimate(
        [pretrain, *pruning, clean],
        validation=0.5,
        steps=[(pretrain, [1.0, 3.0]), (pruning[0], [4.0, 6.0])],
        images=[(clean, 0.25)],
    )
    assert found.total(of) == pytest.approx(1.5 * (10 * step + 40 * prune) + 50 * 0.25)
    _, rows = found.table()
    assert rows[1] == ["hydra prune", "2", "40 steps", "7.5 s", "5 min"]
    assert rows[-1] == ["all", "", "", "", "6 min"]  # 30 + 300 + 12.5 s


def test_the_work_of_a_run_is_its_stages_and_its_images() -> None:
    recipe = tiny.recipe({"prune": {"densities": [0.1]}})
    data = plan(recipe).data
    found = works(recipe, data)
    # 128 images in batches of 64, two epochs
    assert found[:3] == [
        Work("dense", "pretrain", 4),
        Work("dense", "clean", 100, judges=True),
        Work("dense", "pgd", 64, judges=True),
    ]
    assert [work.name for work in found if work.network == "hydra-0.1" and not work.judges] == [
        "prune",
        "finetune",
    ]
    assert [work.units for work in works(recipe, data, max_steps=3) if not work.judges] == [3] * 4


@pytest.mark.slow
def test_check_times_a_recipe_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drafts = tmp_path / "drafts"
    drafts.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(drafts))
    monkeypatch.chdir(tmp_path)
    recipe = tiny.write(tmp_path)
    assert main(["check", str(recipe), "--time"]) == 0
    said = capsys.readouterr().out
    for part in ("pretrain", "hydra prune", "hydra finetune", "magnitude finetune", "clean", "pgd"):
        assert f"\n {part} " in said, part
    assert "by the faster of two steps" in said
    assert {path.name for path in tmp_path.rglob("*")} == {"drafts", recipe.name}


def test_the_time_of_several_recipes_is_not_estimated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(tiny.write(tmp_path))
    assert main(["check", recipe, recipe, "--time"]) == 2
    assert "--time is for one recipe" in capsys.readouterr().err
