"""The recipes that come with the package: listed and copied."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustprune.recipe import load_recipe

from .conftest import Command
from .test_mistakes import assert_told

pytestmark = pytest.mark.slow


def test_a_list_shows_size_and_cost(command: Command, here: Path) -> None:
    said = command("recipes", "quick")
    assert said.code == 0
    (row,) = [line.split() for line in said.out.splitlines() if line.startswith(" quickstart ")]
    # 800 + 18,432 + 10,240 weights; 15 epochs dense, three times 10 + 10 for HYDRA, 10 for the rest
    assert row[:6] == ["quickstart", "digits", "cnn_digits", "29,472", "7", "105"]
    assert " ".join(row[6:]).startswith("The demo: real 8×8 digits")
    recipe = load_recipe("quickstart")
    assert {name: stage.epochs for name, stage in recipe.stages.items()} == {
        "pretrain": 15,
        "prune": 10,
        "finetune": 10,
    }


def test_a_word_is_looked_for_in_names_data_networks_and_titles(
    command: Command, here: Path
) -> None:
    out = command("recipes", "IMAGENET").out
    assert " paper/imagenet_resnet50_free " in out
    assert " – " in out  # its classes are folders, which are not there
    assert "cifar10" not in out
    assert_told(command("recipes", "hydro"), "no recipe is about 'hydro'")
    assert_told(command("recipes", "quikstart"), "Did you mean 'quickstart'?")


def test_a_copy_can_be_edited_and_is_never_overwritten_unasked(
    command: Command, here: Path
) -> None:
    name = "paper/cifar10_vgg16_adversarial"
    assert command("recipes", "copy", name).code == 0
    copy = here / "cifar10_vgg16_adversarial.yaml"
    assert load_recipe(copy).document() == load_recipe(name).document()
    copy.write_text("mine")
    assert_told(command("recipes", "copy", name), "is there already", "--force")
    assert copy.read_text() == "mine"
    assert command("recipes", "copy", name, "--force").code == 0
    assert load_recipe(copy).name == "paper-cifar10-vgg16-adversarial"
    (here / "sub").mkdir()
    assert command("recipes", "copy", "quickstart", "sub").code == 0
    assert load_recipe(here / "sub" / "quickstart.yaml").name == "quickstart"


def test_mistakes_are_told(command: Command, here: Path) -> None:
    assert_told(command("recipes", "copy"), "copy NAME [FILE]")
    assert_told(command("recipes", "a", "b"), "copy NAME [FILE]")
    assert_told(command("recipes", "copy", "quikstart"), "'quikstart'", "mean 'quickstart'?")
    (here / "file").write_text("")
    told = command("recipes", "copy", "quickstart", here / "file" / "mine.yaml")
    assert_told(told, "cannot write", "Name another file")
