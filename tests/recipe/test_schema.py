from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustprune.errors import InvalidError
from robustprune.parts import Options, build
from robustprune.recipe import (
    ComputeOptions,
    PruneOptions,
    Recipe,
    StageChanges,
    StageOptions,
    load_recipe,
)
from robustprune.recipe.document import Document, dump

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))
LEAST: dict[str, Any] = {
    "name": "x",
    "data": "digits",
    "model": "cnn_digits",
    "objective": "pgd",
    "pretrain": {"epochs": 1},
}


def test_the_shortest_recipe_has_the_documented_defaults() -> None:
    recipe = build(Recipe, LEAST)
    assert (recipe.seed, recipe.prune, recipe.finetune) == (0, None, None)
    assert (recipe.evaluate, recipe.imports) == ([], [])
    stage = recipe.document()["pretrain"]
    assert stage["batch_size"] == 128
    assert (stage["accumulate"], stage["select"]) == (1, "last")
    assert (stage["optimizer"]["name"], stage["schedule"]["name"]) == ("sgd", "cosine")
    assert recipe.document()["compute"] == {
        "device": "auto",
        "precision": "fp32",
        "threads": None,
        "channels_last": False,
    }
    assert recipe.tracking.enabled


def test_sections_left_out_do_not_share_their_defaults() -> None:
    first, second = build(Recipe, LEAST), build(Recipe, LEAST)
    assert first.evaluate is not second.evaluate
    assert first == second


@pytest.mark.parametrize("key", [key for key in LEAST if key != "pretrain"])
def test_each_of_the_least_keys_is_required(key: str) -> None:
    with pytest.raises(InvalidError) as error:
        build(Recipe, {name: value for name, value in LEAST.items() if name != key})
    (problem,) = error.value.problems
    assert problem.place == (key,)
    assert problem.message.startswith("this key is required. ")
    assert len(problem.message) > len("this key is required. ") + 5


@pytest.mark.parametrize(
    "schema", [Recipe, StageOptions, StageChanges, PruneOptions, ComputeOptions]
)
def test_every_option_is_documented(schema: type[Options]) -> None:
    assert all(field.description for field in schema.model_fields.values())
    assert schema.__doc__


@pytest.mark.parametrize("name", ["x", "a.b-c_d", "1e-4", "0", "ε", "_x", "2024-01-01"])
def test_names_that_make_a_folder_pass(name: str) -> None:
    assert build(Recipe, LEAST | {"name": name}).name == name


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "../x", "a b", "a\n", "x\\y", "a:b"])
def test_names_that_make_none_do_not(name: str) -> None:
    with pytest.raises(InvalidError, match=r"Names the run's folder: letters"):
        build(Recipe, LEAST | {"name": name})


@pytest.mark.parametrize(
    ("section", "place"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"pretrain": {"epochs": 0}}, "pretrain.epochs"),
        ({"pretrain": {"epochs": 1, "batch_size": 0}}, "pretrain.batch_size"),
        ({"pretrain": {"epochs": 1, "accumulate": 0}}, "pretrain.accumulate"),
        ({"pretrain": {"epochs": 1, "select": "first"}}, "pretrain.select"),
        ({"prune": {"epochs": 1, "methods": [], "densities": [1]}}, "prune.methods"),
        ({"prune": {"epochs": 1, "methods": ["hydra"], "densities": []}}, "prune.densities"),
        ({"prune": {"epochs": 1, "methods": ["hydra"], "densities": [0]}}, "prune.densities.0"),
        ({"prune": {"epochs": 1, "methods": ["hydra"], "densities": [1.01]}}, "prune.densities.0"),
        ({"compute": {"threads": 0}}, "compute.threads"),
        ({"compute": {"device": "gpu"}}, "compute.device"),
        ({"compute": {"precision": "fp64"}}, "compute.precision"),
        ({"imports": [1]}, "imports.0"),
    ],
)
def test_values_out_of_range_are_refused(section: dict[str, Any], place: str) -> None:
    with pytest.raises(InvalidError) as error:
        build(Recipe, LEAST | section)
    assert [".".join(map(str, p.place)) for p in error.value.problems] == [place]


@pytest.mark.parametrize("density", [1, 1.0, "1/100", 1e-9])
def test_densities_up_to_one_pass(density: float) -> None:
    section = {"prune": {"epochs": 1, "methods": ["hydra"], "densities": [density]}}
    assert build(Recipe, LEAST | section).prune is not None


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_resolved_recipe_written_down_is_the_same_recipe(path: Path) -> None:
    recipe = load_recipe(path)
    written = dump(recipe.document())
    again = build(Recipe, Document("r.yaml", written).values)
    assert again == recipe
    assert dump(again.document()) == written


def test_the_resolved_recipe_is_complete_and_names_its_parts() -> None:
    document = load_recipe(RECIPES[0].parents[1] / "quickstart.yaml").document()
    assert document["objective"] == {
        "name": "pgd",
        "eps": 0.1,
        "step_size": None,
        "steps": 5,
        "random_start": True,
    }
    assert document["prune"]["methods"][0]["allocation"] == {"name": "uniform"}
    assert [evaluator["name"] for evaluator in document["evaluate"]] == [
        *("clean", "pgd", "autoattack")
    ]
