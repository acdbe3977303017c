from __future__ import annotations

import enum
import json
from typing import Any

import pytest

from robustprune.arithmetic import PATTERN
from robustprune.components import build
from robustprune.errors import InvalidError
from robustprune.families import FAMILIES, family
from robustprune.recipe import Recipe
from robustprune.recipe.document import Document
from robustprune.recipe.jsonschema import json_schema
from tests.recipe.conftest import GOOD

GOOD_SECTIONS: dict[str, Any] = Document("good", GOOD).values


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return json_schema()


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Any:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def parts_of(schema: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The definitions of a family's parts by name."""
    links = [choice["$ref"] for choice in schema["$defs"][name]["anyOf"] if "$ref" in choice]
    found = [schema["$defs"][link.removeprefix("#/$defs/")] for link in links]
    return {part["properties"]["name"]["const"]: part for part in found}


def objects(schema: Any) -> list[dict[str, Any]]:
    """Every group of options in the schema."""
    if isinstance(schema, dict):
        here = [schema] if "properties" in schema else []
        return here + [found for value in schema.values() for found in objects(value)]
    return [found for value in schema for found in objects(value)] if type(schema) is list else []


def test_it_is_plain_json_of_the_draft_it_names(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    text = json.dumps(schema, allow_nan=False)
    assert json.loads(text) == schema
    assert schema["else"]["required"] == ["name", "data", "model", "objective"]
    assert "required" not in schema["then"]
    references = {part.split('"')[0] for part in text.split('"$ref": "#/$defs/')[1:]}
    assert references == set(schema["$defs"])


def test_every_option_is_described_and_no_other_allowed(schema: dict[str, Any]) -> None:
    for group in objects(schema):
        assert group["additionalProperties"] is False
        assert group["description"]
        for key, option in group["properties"].items():
            assert option.get("description") or "const" in option, key


def test_every_registered_part_is_a_choice(schema: dict[str, Any]) -> None:
    for name in [name for name in FAMILIES if name != "backends"]:  # no recipe names one
        parts = parts_of(schema, name)
        assert list(parts) == family(name).names()
        for part, group in parts.items():
            assert list(group["properties"])[1:] == list(family(name).get(part).model_fields)


def test_numbers_may_be_arithmetic_and_keep_their_range(schema: dict[str, Any]) -> None:
    eps = parts_of(schema, "objectives")["trades"]["properties"]["eps"]
    assert eps["anyOf"] == [{"type": "number", "minimum": 0}, {"$ref": "#/$defs/arithmetic"}]
    assert eps["default"] == 8 / 255
    assert eps["description"] == "Radius of the ball; [0, 1] pixel range."
    assert schema["$defs"]["arithmetic"]["pattern"] == PATTERN


def test_a_part_that_needs_an_option_cannot_be_its_name_alone(schema: dict[str, Any]) -> None:
    names = [choice.get("const") for choice in schema["$defs"]["evaluators"]["anyOf"]]
    assert "clean" in names
    assert "torchattacks" not in names


def test_a_part_registered_later_is_in_it(own_parts: None) -> None:
    from robustprune import objectives

    class Colour(enum.Enum):
        RED = "red"

    @objectives.register("mine")
    class Mine(objectives.Objective):
        """Mine."""

        colour: Colour | None = Colour.RED

    schema = json_schema()
    assert parts_of(schema, "objectives")["mine"]["properties"]["colour"]["default"] == "red"
    assert schema["$defs"]["Colour"]["enum"] == ["red"]


WARMUP = {"name": "warmup", "after": {"name": "warmup", "share": "1/5", "after": "cosine"}}
RIGHT: list[dict[str, Any]] = [
    {},
    {"data": "digits", "model": "resnet18", "objective": "trades", "evaluate": ["clean"]},
    {"pretrain": {"epochs": "2*3", "schedule": WARMUP, "optimizer": {"name": "adam"}}},
    {"prune": None, "finetune": None, "imports": ["a.py"], "seed": "1e3"},
    {"prune": {"epochs": 1, "densities": ["1/10", 1], "methods": ["random"]}},
    {"data": {"name": "cifar10", "extra": {"path": "a.npz", "per_batch": 3}, "subset": None}},
    {"finetune": {"epochs": 1, "objective": None}, "prune": None, "paper": {"source": "x"}},
    {"pretrain": {"epochs": 1, "objective": {"name": "trades", "eps": "1/9"}}},
    {"pretrain": {"epochs": 1, "optimizer": {"lr": 0.01}}},
    {"compute": {"sparse": "on"}},
    {"compute": {"sparse": False}},  # what YAML makes of off
    {"model": {"name": "x", "mean": ["1/2"], "args": {"any": [{"deep": True}]}}},
]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"sead": 1}, "$"),
    ({"name": "a/b"}, "$.name"),
    ({"seed": -1}, "$.seed"),
    ({"imports": [1]}, "$.imports[0]"),
    ({"pretrain": {"epochs": 0}}, "$.pretrain"),
    ({"prune": {"epochs": 1, "densities": [1.01], "methods": ["hydra"]}}, "$.prune"),
    ({"prune": {"epochs": 1, "densities": [1], "methods": []}}, "$.prune"),
    ({"compute": {"threads": 0}}, "$.compute.threads"),
    ({"objective": "pdg"}, "$.objective"),
    ({"objective": {"name": "pgd", "epz": 1}}, "$.objective"),
    ({"objective": {"eps": 1}}, "$.objective"),
    ({"evaluate": "clean"}, "$.evaluate"),
    ({"evaluate": ["torchattacks"]}, "$.evaluate[0]"),
    ({"model": {"num_classes": 3}}, "$.model"),
    ({"prune": {"methods": ["hydra"]}}, "$.prune"),
    ({"tracking": {"enabled": "maybe"}}, "$.tracking.enabled"),
    ({"pretrain": {"epochs": 1, "optimizer": {"lrr": 0.01}}}, "$.pretrain"),
    ({"pretrain": {"epochs": 1, "epoch": 3}}, "$.pretrain"),
    ({"pretrain": {"epochs": 1, "schedule": {"name": "warmup", "after": "cosin"}}}, "$.pretrain"),
    ({"prune": {"epochs": 1, "densities": [0], "methods": ["hydra"]}}, "$.prune"),
    ({"compute": {"device": "gpu"}}, "$.compute.device"),
    ({"compute": {"sparse": "always"}}, "$.compute.sparse"),
    ({"extends": "base.yaml", "compute": {"device": "gpu"}}, "$.compute.device"),
    ({"extends": "base.yaml", "objective": {"epz": 1}}, "$.objective"),
    ({"extends": "base.yaml", "objective": {"name": "pdg"}}, "$.objective"),
    ({"extends": 3}, "$.extends"),
    ({"prune": {"epochs": 1, "densities": [1], "methods": ["hydra"], "share": 0}}, "$.prune"),
]
EXTENDING: list[dict[str, Any]] = [
    {"extends": "base.yaml"},
    {"extends": ["a.yaml", "b.yaml"], "seed": 1, "prune": {"densities": [0.1]}},
    {"extends": "base.yaml", "objective": {"eps": "8/255"}, "pretrain": {"optimizer": {"lr": 1}}},
]


@pytest.mark.slow
@pytest.mark.parametrize("sections", RIGHT)
def test_what_the_recipe_takes_the_schema_takes(sections: dict[str, Any], validator: Any) -> None:
    errors = validator.iter_errors({**GOOD_SECTIONS, **sections})
    assert [(error.json_path, error.message) for error in errors] == []


@pytest.mark.slow
@pytest.mark.parametrize("values", EXTENDING)
def test_what_extends_another_recipe_need_not_be_whole(values: Any, validator: Any) -> None:
    assert list(validator.iter_errors(values)) == []
    assert list(validator.iter_errors({k: v for k, v in values.items() if k != "extends"}))


@pytest.mark.parametrize(("sections", "place"), WRONG)
def test_what_the_recipe_refuses_the_schema_refuses(
    sections: dict[str, Any], place: str, validator: Any
) -> None:
    values = {**GOOD_SECTIONS, **sections}
    found = [error.json_path for error in validator.iter_errors(values)]
    assert found
    assert all(path.startswith(place) for path in found)
    if "extends" not in sections:
        with pytest.raises(InvalidError) as error:
            build(Recipe, values)
        (problem,) = error.value.problems
        assert place == "$" or place.startswith(f"$.{problem.place[0]}")
