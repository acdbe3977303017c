from __future__ import annotations

import json

import pytest
import torch

from robustprune.components import build
from robustprune.errors import InvalidError, UsageError
from robustprune.models import ModelOptions, create_model
from robustprune.models.factory import Normalized


def test_the_dataset_fills_what_is_not_given() -> None:
    options = ModelOptions(name="cnn_small").resolved(num_classes=4, in_chans=1, image_size=28)
    assert create_model(**options)(torch.rand(2, 1, 28, 28)).shape == (2, 4)


def test_resolved_options_are_complete_json_and_rebuild_the_architecture() -> None:
    document = {"name": "resnet18", "args": {"drop_rate": "1/4"}}
    options = build(ModelOptions, document)
    resolved = options.resolved(num_classes=3, in_chans=3, image_size=32)
    assert resolved == {
        "name": "resnet18",
        "num_classes": 3,
        "in_chans": 3,
        "image_size": 32,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "drop_rate": 0.25,
    }
    rebuilt = create_model(**json.loads(json.dumps(resolved)))
    original = create_model(**resolved)
    rebuilt.load_state_dict(original.state_dict())
    assert isinstance(rebuilt, Normalized)
    assert rebuilt.backbone.drop_rate == 0.25


def test_options_win_over_the_dataset_s_defaults() -> None:
    options = ModelOptions(name="cnn_small", num_classes=12, mean=[0.5] * 3, std=[0.5] * 3)
    resolved = options.resolved(num_classes=10, in_chans=3, image_size=32)
    assert (resolved["num_classes"], resolved["mean"]) == (12, [0.5] * 3)
    assert options.resolved(num_classes=10, in_chans=3)["image_size"] is None


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_classes": 2}, "the dataset has 10 classes"), ({"in_chans": 1}, "images have 3")],
)
def test_options_may_not_contradict_the_dataset(options: dict[str, int], message: str) -> None:
    given = build(ModelOptions, {"name": "cnn_small", **options})
    with pytest.raises(UsageError, match=message):
        given.resolved(num_classes=10, in_chans=3, image_size=32)


@pytest.mark.parametrize(
    ("document", "place", "message"),
    [
        ({"name": "cnn_smal"}, ("model", "name"), "Did you mean 'cnn_small'"),
        ({"name": "cnn_small", "std": [1, 0, 1]}, ("model", "std", 1), "greater than 0"),
        ({"name": "cnn_small", "args": {"mean": [0]}}, ("model", "args"), "may not hold mean"),
        ({"name": "resnet18", "args": {"pretrained": True}}, ("model", "args"), "without"),
        ({"name": "cnn_small", "num_clases": 3}, ("model", "num_clases"), "num_classes"),
        ({}, ("model", "name"), "required"),
    ],
)
def test_problems_are_named_with_their_place(
    document: dict[str, object], place: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InvalidError) as error:
        build(ModelOptions, document, ("model",))
    (problem,) = error.value.problems
    assert problem.place == place
    assert message in problem.message


def test_every_option_is_documented() -> None:
    assert all(field.description for field in ModelOptions.model_fields.values())
