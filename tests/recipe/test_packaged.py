"""Recipes that come with the package, found by name from anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from robustprune.errors import UsageError
from robustprune.pipeline.trials import Trial, write_best
from robustprune.recipe import load_recipe, packaged
from robustprune.recipe.document import read_extended

from .test_recipes import EVERY, RECIPES


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("ending", ["", ".yaml"])
@pytest.mark.parametrize("prefix", ["", "recipes/", "./"])
@pytest.mark.parametrize("name", ["quickstart", "paper/cifar10_vgg16_adversarial"])
def test_a_name_is_found_from_anywhere(name: str, prefix: str, ending: str) -> None:
    assert packaged.find(f"{prefix}{name}{ending}") == RECIPES / f"{name}.yaml"


def test_a_file_that_is_there_wins_with_and_without_its_ending(here: Path) -> None:
    Path("quickstart").mkdir()  # a folder is no recipe
    assert packaged.find("quickstart") == RECIPES / "quickstart.yaml"
    text = (RECIPES / "quickstart.yaml").read_text().replace("seed: 0", "seed: 7")
    Path("quickstart.yaml").write_text(text)
    for name in ("quickstart", "quickstart.yaml", here / "quickstart.yaml"):
        assert load_recipe(name).seed == 7
    assert load_recipe("recipes/quickstart.yaml").seed == 0


@pytest.mark.parametrize("name", [".", "..", "../..", "../../etc/passwd", "base", "paper", "/"])
def test_no_name_leads_out_of_the_packaged_recipes(name: str) -> None:
    assert packaged.packaged(name) is None
    assert packaged.find(name) == Path(name)
    Path("own.yaml").write_text(f"extends: {name}\n")
    with pytest.raises(UsageError, match=r"own.yaml:1: extends: "):
        read_extended(Path("own.yaml"))


def test_a_file_of_a_packaged_one_s_name_that_extends_it_is_told_so() -> None:
    Path("quickstart.yaml").write_text("extends: quickstart\nseed: 7\n")
    with pytest.raises(UsageError, match=r"comes with robustprune is meant, call this file other"):
        read_extended(Path("quickstart.yaml"))


def test_every_recipe_is_named_but_those_that_only_others_extend() -> None:
    found = {packaged.find(name) for name in packaged.names()}
    assert found == {path for path in EVERY if path.parent.name != "base"}
    assert packaged.names()[0] == "quickstart"


def test_a_recipe_of_ones_own_extends_one_by_its_name() -> None:
    Path("own").mkdir()
    Path("own/mine.yaml").write_text("extends: [mnist/cnn_small_trades, quickstart]\nname: mine\n")
    quickstart = yaml.safe_load((RECIPES / "quickstart.yaml").read_text())
    values = read_extended(Path("own/mine.yaml")).values
    assert values["objective"] == quickstart["objective"]
    assert values["name"] == "mine"


def test_a_copy_is_the_same_recipe_wherever_it_lies() -> None:
    extending = [path for path in EVERY if "\nextends:" in path.read_text(encoding="utf-8")]
    assert len(extending) > 50
    for number, path in enumerate(extending):
        copy = Path(f"{number}.yaml")
        copy.write_text(packaged.movable(path))
        assert read_extended(copy).values == read_extended(path).values
        ours, theirs = copy.read_text().splitlines(), path.read_text().splitlines()
        assert [line for line in ours if not line.startswith("extends:")] == [
            line for line in theirs if not line.startswith("extends:")
        ]


def test_the_best_of_a_study_extends_by_name_what_has_one() -> None:
    best = Trial(0, {"prune.epochs": "3"}, 0.5, "finished")
    for recipe in (packaged.find("quickstart"), Path("mine.yaml")):
        Path("mine.yaml").write_text(packaged.movable(packaged.find("quickstart")))
        write_best(Path("best.yaml"), best, of=1, recipe=recipe, overrides=[])
        name = yaml.safe_load(Path("best.yaml").read_text())["extends"]
        assert name == ("mine.yaml" if recipe.name == "mine.yaml" else "quickstart")


@pytest.mark.parametrize("name", ["paper/cifar10_vgg16_adverserial", "quikstart.yaml"])
def test_an_unknown_name_shows_near_ones_and_the_command_that_lists_them(name: str) -> None:
    with pytest.raises(UsageError) as error:
        load_recipe(name)
    near = {"p": "'paper/cifar10_vgg16_adversarial'", "q": "'quickstart'"}[name[0]]
    for text in (f"cannot read the recipe {name}", f"Did you mean {near}", "robustprune recipes"):
        assert text in str(error.value)


@pytest.mark.parametrize("name", ["../mkdocs", "/quickstart", "paper", ""])
def test_only_recipes_have_names(name: str) -> None:
    with pytest.raises(UsageError):
        load_recipe(name)
