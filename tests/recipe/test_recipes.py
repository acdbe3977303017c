"""The recipes that come with robustprune are right, and as the paper has its settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustprune import pruners
from robustprune.components import build
from robustprune.recipe import Recipe, load_recipe
from robustprune.recipe.document import dump
from robustprune.recipe.jsonschema import json_schema
from robustprune.recipe.reading import read_yaml

RECIPES = Path(__file__).parents[2] / "recipes"
PAPER = RECIPES / "paper"
EVERY = sorted(RECIPES.rglob("*.yaml"))

# Percent at densities 1, 0.1, 0.05, 0.01, as the paper prints them: magnitude, then HYDRA.
NUMBERS = {
    "cifar10_vgg16_adversarial": ((51.9, 48.8, 45.2, 34.3), (51.9, 49.5, 48.7, 41.7)),
    "cifar10_wrn_28_4_adversarial": ((57.2, 53.8, 49.2, 37.3), (57.2, 55.2, 54.2, 47.3)),
    "svhn_vgg16_adversarial": ((53.5, 51.5, 50.4, 29.0), (53.5, 52.4, 51.7, 46.8)),
    "svhn_wrn_28_4_adversarial": ((60.1, 59.4, 53.4, 45.3), (60.1, 62.8, 59.8, 52.4)),
    "cifar10_vgg16_smoothing": ((61.1, 59.6, 56.8, 44.1), (61.1, 60.7, 59.9, 54.4)),
    "cifar10_wrn_28_4_smoothing": ((63.3, 61.0, 59.9, 49.1), (63.3, 63.0, 62.5, 56.0)),
    "svhn_vgg16_smoothing": ((60.1, 59.9, 59.8, 51.9), (60.1, 59.9, 59.3, 58.6)),
    "svhn_wrn_28_4_smoothing": ((62.2, 62.2, 61.4, 45.0), (62.2, 62.3, 62.0, 59.6)),
}
# Networks, epochs, learning rates, batch size and what is minimised, by the last words of a name.
SGD = ("sgd", 0.1, "sgd", 0.1, "sgd", 0.01)
SETTINGS: dict[str, tuple[set[str], tuple[int, ...], tuple[Any, ...], int, dict[str, Any]]] = {
    "adversarial": (
        {"vgg16_bn_cifar", "wrn_28_4", "wrn_28_10"},
        (100, 20, 100),
        SGD,
        128,
        {"name": "trades", "eps": 8 / 255, "step_size": 2 / 255, "steps": 10, "beta": 6},
    ),
    "smoothing": (
        {"vgg16_bn_cifar", "wrn_28_4"},
        (100, 20, 100),
        SGD,
        128,
        {"name": "stability", "sigma": 0.25, "beta": 6},
    ),
    "crown_ibp": (
        {"cnn_small", "cnn_large"},
        (200, 20, 100),
        ("adam", 1e-3, "adam", 1e-5, "adam", 1e-5),
        128,
        {"name": "crown_ibp", "eps": 2 / 255, "kappa": 0, "ramp.epochs": 119},
    ),
    "mixtrain": (
        {"cnn_small", "cnn_large"},
        (60, 20, 60),
        ("adam", 1e-3, "adam", 1e-5, "adam", 5e-4),
        50,
        {"name": "mixtrain", "eps": 2 / 255, "probability": 0.8, "most": 50, "ramp.epochs": 15},
    ),
    "free": (
        {"resnet50"},
        (23, 5, 23),
        ("sgd", 0.1, "sgd", 0.1, "sgd", 0.1),
        256,
        {"name": "free", "eps": 4 / 255, "step_size": 4 / 255, "replays": 4},
    ),
}
# HYDRA's own; the others are of a method's own source: <method>_<data>_<network>
OURS = ("cifar10_", "svhn_", "imagenet_", "study_")
HYDRAS = [path for path in sorted(PAPER.glob("*.yaml")) if path.stem.startswith(OURS)]
WHOLE = [path for path in HYDRAS if not path.stem.startswith("study_")]


@pytest.fixture(scope="module")
def validator() -> Any:
    """The validator of an editor."""
    jsonschema = pytest.importorskip("jsonschema")
    return jsonschema.Draft202012Validator(json_schema())


@pytest.mark.parametrize("path", EVERY, ids=lambda path: str(path.relative_to(RECIPES)))
def test_it_is_valid_and_cites_what_a_run_of_it_reports(path: Path, validator: Any) -> None:
    recipe, text = load_recipe(path), path.read_text(encoding="utf-8")
    assert recipe.evaluate
    assert list(validator.iter_errors(read_yaml(text).values)) == []
    written = dump(recipe.document())
    assert dump(build(Recipe, read_yaml(written).values).document()) == written
    cited = {} if recipe.paper is None else recipe.paper.metrics
    assert set(cited) <= {getattr(evaluator, "metric", None) for evaluator in recipe.evaluate}
    for numbers in cited.values():
        assert set(numbers) <= networks(recipe)
    if path.parent == PAPER:
        assert recipe.name == f"paper-{path.stem.replace('_', '-')}"
        assert bool(cited) != ("# paper: not transcribed\n" in text)
    if path in HYDRAS:
        assert recipe.prune is None or recipe.prune.optimizer.model_dump()["weight_decay"] == 1e-4


@pytest.mark.parametrize("name", NUMBERS)
def test_the_paper_s_numbers_stand_in_the_recipe_and_in_its_header(name: str) -> None:
    path = PAPER / f"{name}.yaml"
    recipe, header = load_recipe(path), path.read_text(encoding="utf-8")
    magnitude, hydra = NUMBERS[name]
    expected = {"dense": hydra[0]}
    for method, percents in (("magnitude", magnitude), ("hydra", hydra)):
        expected |= {
            f"{method}-{density}": percent
            for density, percent in zip(("0.1", "0.05", "0.01"), percents[1:], strict=True)
        }
        assert f" {' / '.join(map(str, percents))}\n" in header
    assert recipe.paper is not None
    (numbers,) = recipe.paper.metrics.values()
    assert {key: round(100 * value, 6) for key, value in numbers.items()} == expected
    assert set(recipe.paper.metrics) == {"pgd" if "adversarial" in name else "smoothing"}


def test_wrn_28_10_is_cited_at_ninety_percent() -> None:
    recipe = load_recipe(PAPER / "cifar10_wrn_28_10_adversarial.yaml")
    assert recipe.paper is not None
    assert recipe.paper.metrics == {
        "clean": {"hydra-0.1": 0.8897},
        "pgd": {"hydra-0.1": 0.6224},
        "autoattack": {"hydra-0.1": 0.5714},
    }


@pytest.mark.parametrize("path", WHOLE, ids=lambda path: path.stem)
def test_a_setting_is_as_the_paper_s_code_has_it(path: Path) -> None:
    recipe = load_recipe(path)
    setting = next(key for key in SETTINGS if path.stem.endswith(key))
    models, epochs, optimizers, batch_size, objective = SETTINGS[setting]
    document = recipe.document()
    stages = [document[stage] for stage in ("pretrain", "prune", "finetune")]
    assert recipe.model.name in models
    assert tuple(stage["epochs"] for stage in stages) == epochs
    assert {stage["batch_size"] for stage in stages} == {batch_size}
    found = [(stage["optimizer"]["name"], stage["optimizer"]["lr"]) for stage in stages]
    assert tuple(value for pair in found for value in pair) == optimizers
    assert {stage["optimizer"]["weight_decay"] for stage in stages} == {1e-4}
    assert {stage["schedule"]["name"] for stage in stages} == {"cosine"}
    assert {stage["optimizer"].get("momentum", 0.9) for stage in stages} == {0.9}
    for option, value in objective.items():
        key, _, inner = option.partition(".")
        assert (document["objective"][key][inner] if inner else document["objective"][key]) == value
    if setting == "mixtrain":
        assert document["objective"]["samples"] == (5 if recipe.model.name == "cnn_small" else 1)
    extra = setting in ("adversarial", "smoothing") and recipe.data.registered_name == "cifar10"
    assert (document["data"].get("extra") or {}).get("per_batch") == (128 if extra else None)
    methods = [getattr(method, "variant", "") for method in recipe.prune.methods]  # type: ignore[union-attr]
    assert methods == ["hydra", "magnitude"]


def test_every_setting_of_the_table_has_its_recipe() -> None:
    pairs = [
        *((data, net, loss) for net in ("vgg16", "wrn_28_4") for data in ("cifar10", "svhn")
          for loss in ("adversarial", "smoothing")),
        *((data, net, loss) for net in ("cnn_small", "cnn_large") for data in ("cifar10", "svhn")
          for loss in ("mixtrain", "crown_ibp")),
    ]  # fmt: skip
    expected = {"_".join(pair) for pair in pairs}
    assert {path.stem for path in WHOLE} == expected | {
        *("cifar10_wrn_28_10_adversarial", "imagenet_resnet50_free")
    }


def test_the_hidden_networks_of_both_sizes_have_nine_densities_and_no_finetuning() -> None:
    hidden = sorted(PAPER.glob("study_hidden_*")) + sorted((RECIPES / "studies").glob("hidden_*"))
    assert len(hidden) == 8
    for path in hidden:
        recipe = load_recipe(path)
        assert recipe.prune is not None
        assert sorted(recipe.prune.densities) == [n / 10 for n in range(1, 10)]
        assert recipe.finetune is None
        assert recipe.pretrain is not None
        own = [recipe.pretrain.objective, recipe.prune.objective]
        pretrain, prune = (one or recipe.objective for one in own)
        assert pretrain.registered_name == "benign"
        assert prune.registered_name != "benign"


def networks(recipe: Recipe) -> set[str]:
    if recipe.prune is None:
        return {"dense"}
    densities = recipe.prune.densities
    return {"dense"} | {m.network(d) for m in recipe.prune.methods for d in densities}  # type: ignore[attr-defined]


@pytest.mark.parametrize("folder", ["zoo", "paper"])
def test_every_method_has_a_recipe_of_the_zoo_and_one_of_its_own_setting(folder: str) -> None:
    named = {
        method.registered_name
        for path in (RECIPES / folder).rglob("*.yaml")
        if (prune := load_recipe(path).prune) is not None
        for method in prune.methods
    }
    assert named >= set(pruners.names()) - {"random"}  # which has no setting of its own
