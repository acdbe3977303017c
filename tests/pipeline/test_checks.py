"""Counts that leave nothing to do, or too little, are refused before anything is trained."""

from __future__ import annotations

import copy
import shutil
from collections import namedtuple
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from robustprune.datasets import Splits
from robustprune.datasets.source import TensorSource
from robustprune.errors import UsageError
from robustprune.pipeline.checks import check_counts, check_maskable, check_room
from robustprune.pipeline.evaluate import evaluate_saved, parts_of
from robustprune.pipeline.plan import plan
from robustprune.pipeline.run_folder import RunFolder

from . import tiny

NORM = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10))
"""Its BatchNorm sees one value an image and channel."""
SPATIAL = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10))
PLAIN = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
FROZEN = {"methods": [{"name": "hydra", "train_norms": False}], "batch_size": 1}


def images(count: int) -> TensorSource:
    return TensorSource(torch.zeros(count, 1, 8, 8), torch.zeros(count, dtype=torch.int64))


def splits(*, train: int = 128, validation: int | None = None, test: int = 8) -> Splits:
    held = None if validation is None else images(validation)
    shape = {"num_classes": 10, "channels": 1, "image_size": 8}
    return Splits(images(train), held, images(test), **shape)


def check(
    *changes: Mapping[str, Any], model: nn.Module = PLAIN, data: Splits | None = None, **more: Any
) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_counts(tiny.recipe(*changes), data or splits(), model, **more)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "prune", "finetune"])
@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"batch_size": 1}, "batch_size=2 or more"),
        ({"accumulate": 64}, "batch_size=128 or more, or accumulate=32 or less"),
        ({"accumulate": 33}, "batch_size=66 or more, or accumulate=32 or less"),
        ({"batch_size": 3, "accumulate": 2}, "batch_size=4 or more, or accumulate=1 or less"),
    ],
)
def test_one_image_at_a_time_is_too_few_for_batch_norm(
    stage: str, options: dict[str, int], remedy: str
) -> None:
    with pytest.raises(UsageError, match=f"{stage}: .* from 1 image at a time") as error:
        check({stage: options}, model=NORM)
    assert remedy in str(error.value)
    check({stage: options})
    check({stage: options}, model=SPATIAL)  # each channel has 36 values an image


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"batch_size": 2}, {"batch_size": 64, "accumulate": 32}])
def test_two_are_enough(options: dict[str, int]) -> None:
    check({"pretrain": options}, model=NORM)


def test_norms_that_stand_still_take_one() -> None:
    check({"prune": FROZEN}, model=NORM)


def test_a_model_that_learns_from_no_number_of_images_is_told() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 8), nn.InstanceNorm2d(4), nn.Flatten(), nn.Linear(4, 10))
    with pytest.raises(UsageError, match=r"from 2 images at a time .* Choose another model"):
        check(model=model)


@pytest.mark.parametrize(
    ("data", "world", "words"),
    [
        (splits(train=0), 1, "pretrain: the dataset has no training images"),
        (
            splits(train=1),
            1,
            "pretrain: no step in 1 image, by 1 process: .*batch_size=1, or more",
        ),
        (splits(train=3), 2, "pretrain: no step in 3 images, by 2 processes: .*batch_size=3"),
        (splits(train=3), 4, "no step in 3 images, by 4 processes: .* Use fewer processes"),
        (splits(test=0), 1, "evaluate: the dataset has no test images"),
        (replace(splits(), test=None), 1, "evaluate: the dataset has no test images"),
        (splits(validation=0), 1, "data.validation: it holds no image back"),
    ],
)
def test_a_phase_of_no_steps_is_refused(data: Splits, world: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(data=data, world=world)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prune": {"share": 0.01}}, "prune.share: 0.01 of 128 training images is fewer than two"),
        ({"finetune": {"accumulate": 65}}, "finetune.accumulate: a batch of 64 cannot be cut into"),
    ],
)
def test_what_leaves_too_little_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check(changes)


def test_each_process_gets_some_of_every_batch() -> None:
    check({"finetune": {"batch_size": 3}})
    check({"finetune": {"batch_size": 4}}, world=2)
    with pytest.raises(
        UsageError,
        match=r"finetune\.batch_size: 3 images .* among 2 processes.*--set finetune\.batch_size=4",
    ):
        check({"finetune": {"batch_size": 3}}, world=2)


def test_about_the_room_that_a_run_takes_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file for each network and three times as much for each stage, less what is there."""
    recipe, model = tiny.recipe(tiny.SMALL), nn.Linear(499, 500)  # 1 MB
    free = [11 * 10**6]
    asked: list[Path] = []

    def disk_usage(place: Path) -> Any:
        asked.append(place)
        return namedtuple("Usage", "free")(free[0])

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    check_room(recipe, model, tmp_path / "new" / "run")
    free[0] -= 10**5
    with pytest.raises(UsageError, match=r"has 10\.9 MB left, .* about 11\.0 MB there\. Make room"):
        check_room(recipe, model, tmp_path / "new" / "run")
    assert asked == [tmp_path] * 2
    folder = RunFolder(tmp_path)
    for path in (folder.model("dense"), folder.state("hydra-0.1", "prune")):
        path.parent.mkdir()
        path.touch()
    free[0] = 4 * 10**6
    check_room(recipe, model, tmp_path)


@pytest.mark.parametrize("steps", [0, -1])
def test_no_steps_at_all_are_refused(steps: int) -> None:
    with pytest.raises(UsageError, match=f"max_steps: {steps} leaves nothing to train"):
        check(max_steps=steps)


def test_a_run_and_its_plan_ask_before_anything_is_written(tmp_path: Path) -> None:
    changes = ({"data": {"subset": 1}}, {"pretrain": {"batch_size": 128}})
    for work in (lambda: tiny.go(tmp_path / "run", *changes), lambda: plan(tiny.recipe(*changes))):
        with pytest.raises(UsageError, match="pretrain: no step"):
            work()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_last_parts_have_as_many_as_batch_norm_needs(tmp_path: Path) -> None:
    """A batch of 64 in 32 parts, then one of 5: not in five parts of one image."""
    changes = {"model": {"name": "test_resnet"}, "data": {"subset": 69}, "evaluate": []}
    pretrain = {"pretrain": {"accumulate": 32, "epochs": 1}, "prune": None, "finetune": None}
    result = tiny.go(tmp_path / "run", changes, pretrain)
    assert result.network("dense")


def test_an_empty_test_split_cannot_be_evaluated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustprune.artifacts.reading import read_model
    from robustprune.tracking import Console

    path = tiny.go(tmp_path / "run", {"prune": None, "finetune": None, "evaluate": []}).folder
    saved = read_model(path / "dense" / "model.safetensors")
    data, parts = parts_of(saved.metadata)
    monkeypatch.setattr(type(data), "load", lambda *a, **k: splits(test=0))
    with pytest.raises(UsageError, match="no test images to evaluate on"):
        evaluate_saved({"a": (saved, data, parts)}, console=Console(quiet=True))


@pytest.mark.parametrize(
    ("options", "density", "said"),
    [
        ({"allocation": {"name": "global", "minimum": 4}}, 0.01, "minimum 4 keeps 40 entries"),
        ({"allocation": "uniform_plus"}, 0.1, "Ask for a higher density"),
    ],
)
def test_allocations_that_cannot_keep_what_they_must_are_refused_before_training(
    options: dict[str, Any], density: float, said: str
) -> None:
    changes = {"methods": [{"name": "hydra", **options}], "densities": [0.5, density]}
    with pytest.raises(UsageError, match=f"pruner 'hydra': .*{said}"):
        check_maskable(tiny.recipe({"prune": changes}), copy.deepcopy(PLAIN))
