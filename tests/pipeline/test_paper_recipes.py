"""Each recipe of a paper's setting takes two steps a stage, on a few images that mean nothing.

The first recipe of each network has that network and one method; the others have all their methods,
on a small network. The settings on SVHN differ from those on CIFAR-10 in their data alone.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from robustprune import datasets
from robustprune.pipeline import run
from robustprune.recipe import Recipe, load_recipe
from robustprune.tracking import Console
from robustprune.training.state import StageState

from ..datasets import fakes

pytestmark = pytest.mark.slow

HYDRAS = ("cifar10_", "imagenet_", "study_")  # others' methods take their steps elsewhere
PAPER = Path(__file__).parents[2] / "recipes" / "paper"
RECIPES = [path for path in sorted(PAPER.glob("*.yaml")) if path.stem.startswith(HYDRAS)]
TOO_LARGE = {
    "cifar10_wrn_28_10_adversarial": "36.5 M weights take minutes; wrn_28_4 differs in width only",
}
IMAGES = 4


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few images in the layout of every dataset that the recipes name."""
    root = tmp_path_factory.mktemp("data")
    for split in ("train", "test"):
        fakes.write_split(root / "cifar10", split, datasets.create("cifar10"), IMAGES)
    fakes.write_folders(root / "imagefolder", each=IMAGES // 2, size=40)
    np.savez(root / "extra.npz", images=fakes.pixels(4, 3, 32), labels=np.zeros(4, np.int64))
    return root


@pytest.fixture(scope="module")
def first() -> set[Path]:
    """The first recipe of each network."""
    found: dict[str, Path] = {}
    for path in RECIPES:
        found.setdefault(load_recipe(path).model.name, path)
    return set(found.values())


def reduced(path: Path, data: Path, *, whole: bool) -> Recipe:
    """The recipe with its losses, on few images, at its lowest density."""
    recipe = load_recipe(path)
    name = recipe.data.registered_name
    changes = [f"data.root={data / name}", "compute={device: cpu, threads: 1, channels_last: true}"]
    if name == "imagefolder":
        changes += ["data.classes=2", "data.size=32", "data.resize=32", "data.workers=0"]
    if getattr(recipe.data, "extra", None) is not None:
        changes += [f"data.extra.path={data / 'extra.npz'}", "data.extra.per_batch=1"]
    assert recipe.prune is not None
    changes.append(f"prune.densities=[{min(recipe.prune.densities)}]")
    changes += ["prune.methods=[hydra]"] if whole else ["model=cnn_small"]
    for stage in ("pretrain", "prune", "finetune"):
        if getattr(recipe, stage) is not None:
            changes += [f"{stage}.epochs=1", f"{stage}.batch_size={IMAGES // 2}"]
    if hasattr(recipe.objective, "steps"):
        changes += ["objective.steps=1", "objective.step_size=null"]
    for number, evaluator in enumerate(recipe.evaluate):
        changes.append(f"evaluate.{number}.samples=1")
        small = {"steps": 1, "step_size": "null", "restarts": 1, "n0": 2, "n": 4}
        changes += [f"evaluate.{number}.{k}={v}" for k, v in small.items() if hasattr(evaluator, k)]
    return load_recipe(path, [*changes, "tracking={enabled: false}"])


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_it_takes_two_steps_a_stage(
    path: Path, data: Path, first: set[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.stem in TOO_LARGE:
        pytest.skip(TOO_LARGE[path.stem])
    monkeypatch.setenv("ROBUSTPRUNE_CACHE", "")
    monkeypatch.setattr(StageState, "save", lambda self, path: None)  # large, soon deleted
    recipe = reduced(path, data, whole=path in first)
    result = run(recipe, out=tmp_path / "run", fresh=True, max_steps=2, console=Console(quiet=True))
    assert recipe.prune is not None
    assert len(result.networks) == 1 + len(recipe.prune.methods)
    for network in result.networks:
        assert set(network["metrics"]) >= {getattr(e, "metric", "") for e in recipe.evaluate}
    for model in tmp_path.rglob("*.safetensors"):
        model.unlink()
