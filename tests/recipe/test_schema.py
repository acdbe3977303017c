from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robustprune.components import Options, build
from robustprune.errors import InvalidError
from robustprune.recipe import ComputeOptions, Recipe, StageChanges, StageOptions, load_recipe
from robustprune.recipe.schema import PruneOptions

QUICKSTART = Path(__file__).parents[2] / "recipes" / "quickstart.yaml"
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
        "sparse": "auto",
    }
    assert recipe.tracking.enabled


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


def test_a_name_makes_a_folder() -> None:
    for name in ("a.b-c_d", "1e-4", "ε", "2024-01-01"):
        assert build(Recipe, LEAST | {"name": name}).name == name
    for name in ("", ".", "-x", "../x", "a b", "a\n", "a:b"):
        with pytest.raises(InvalidError, match=r"Names the run's folder: letters"):
            build(Recipe, LEAST | {"name": name})


def test_the_resolved_recipe_is_complete_and_names_its_parts() -> None:
    document = load_recipe(QUICKSTART).document()
    assert document["objective"] == {
        "name": "pgd",
        "eps": 0.1,
        "step_size": None,
        "steps": 5,
        "random_start": True,
    }
    assert document["prune"]["methods"][0]["allocation"] == {"name": "uniform", "minimum": 0}
    assert [evaluator["name"] for evaluator in document["evaluate"]] == [
        *("clean", "pgd", "autoattack")
    ]
