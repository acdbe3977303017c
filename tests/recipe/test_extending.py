from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustprune.errors import UsageError
from robustprune.recipe import load_recipe
from robustprune.recipe.document import changes, merged, read_extended

from .conftest import GOOD
from .test_load import problems

Files = Callable[..., None]

LOSS = """\
import robustprune as rp

@rp.objectives.register("{name}")
class Loss(rp.Objective):
    '''A loss.'''
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Write files here, given as name="text"; base.yaml is there, a right recipe."""
    monkeypatch.chdir(tmp_path)

    def write(**texts: str) -> None:
        for name, text in {"base": GOOD, **texts}.items():
            path = Path(name.replace("__", "/")).with_suffix(".yaml")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")

    return write


def test_mappings_are_merged_and_all_else_is_replaced(files: Files) -> None:
    own = "extends: base.yaml\nname: own\nprune: {epochs: 7, methods: [magnitude]}\nfinetune:\n"
    files(own=own)
    expected = {**yaml.safe_load(GOOD), "name": "own", "finetune": None}
    expected["prune"] = {"methods": ["magnitude"], "densities": [0.1], "epochs": 7}
    assert read_extended(Path("own.yaml")).values == expected
    recipe = load_recipe("own.yaml", ["prune.epochs=8"])
    assert (recipe.name, recipe.finetune) == ("own", None)
    assert recipe.prune is not None
    assert recipe.prune.epochs == 8
    assert "extends" not in recipe.document()


@pytest.mark.parametrize(
    ("base", "own", "result"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": "x"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"name": "x", "b": 1}, {"name": "y"}, {"name": "y", "b": 1}),
        ({"o": {"name": "x", "b": 1}}, {"o": {"name": "y"}}, {"o": {"name": "y"}}),
        ({"o": {"name": "x", "b": 1}}, {"o": {"b": 2}}, {"o": {"name": "x", "b": 2}}),
        ({"p": {"o": {"b": 1}}}, {"p": {"o": {"name": "y"}}}, {"p": {"o": {"name": "y"}}}),
    ],
)
def test_merging(base: dict[str, object], own: dict[str, object], result: object) -> None:
    assert merged(base, own) == result


def test_of_several_bases_the_later_one_wins_and_chains_are_followed(files: Files) -> None:
    files(
        one="extends: base.yaml\nseed: 1\nname: one\n",
        two="seed: 2\n",
        own="extends: [one.yaml, two.yaml]\ndata: {validation: 0.2}\n",
    )
    recipe = load_recipe("own.yaml")
    assert (recipe.seed, recipe.name) == (2, "one")
    assert recipe.document()["data"]["validation"] == 0.2


def test_bases_are_relative_to_the_file_and_may_meet_again(files: Files) -> None:
    files(
        deep__a="extends: ../base.yaml\nseed: 1\n",
        deep__b="extends: ../base.yaml\nname: b\n",
        deep__own="extends: [a.yaml, b.yaml]\n",
    )
    recipe = load_recipe("deep/own.yaml")
    assert (recipe.seed, recipe.name) == (1, "b"), "GOOD has no seed, so b's base sets none"


def test_a_fault_is_told_where_it_was_written(files: Files) -> None:
    files(
        wrong=GOOD.replace("steps: 5", "stepz: 5").replace("epochs: 1}\nfine", "epochs: x}\nfine"),
        own="seed: -1\nextends: wrong.yaml\n\nobjective: {eps: -3}\n",
    )
    assert [line.split(": ")[:2] for line in problems(Path("own.yaml"))] == [
        ["own.yaml:1", "seed"],
        ["own.yaml:4", "objective.eps"],
        ["wrong.yaml:4", "objective.stepz"],
        ["wrong.yaml:6", "prune.epochs"],
    ]
    assert "--set seed=-2" in problems(Path("own.yaml"), "seed=-2")[-1]


def test_what_replaced_a_base_s_value_is_at_fault_not_the_base(files: Files) -> None:
    files(
        base=GOOD.replace("[{name: clean}]", "[{name: clean}, {name: pgd, eps: 1}]"),
        own="extends: base.yaml\nobjective:\n  name: trades\n  epz: 1\nevaluate: [clean, clean]\n"
        "finetune: {optimizer: {name: sgd, lr: -1}}\n",
    )
    assert [line.split(": ")[:2] for line in problems(Path("own.yaml"))] == [
        ["own.yaml:4", "objective.epz"],
        ["own.yaml:6", "finetune.optimizer.lr"],
    ]


def test_keys_that_stand_twice_in_a_base_are_told(files: Files) -> None:
    files(base=f"{GOOD}seed: 1\nseed: 2\n", own="extends: base.yaml\n")
    (found,) = problems(Path("own.yaml"))
    assert found.startswith("base.yaml:9: seed: the key stands twice")


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ("extends: bas.yaml", "own.yaml:2: extends: cannot read the recipe bas.yaml: "),
        ("extends: bas.yaml", "Did you mean 'base.yaml'?"),
        ("extends: [base.yaml, 3]", "own.yaml:2: extends.1: expected a recipe's file, or a list"),
        (
            "extends:",
            "own.yaml:2: extends: expected a recipe's file, or a list of them; got nothing",
        ),
        ("extends: {a: b}", "expected a recipe's file, or a list of them; got {a: 'b'}"),
        ("extends: own.yaml", "own.yaml:2: extends: 'own.yaml' extends this file in turn."),
        ("extends: round.yaml", "round.yaml:1: extends: 'own.yaml' extends this file in turn."),
        ("extends: broken.yaml", "extends: broken.yaml:3: this is not YAML: "),
        ("extends: list.yaml", "extends: list.yaml is not a recipe: found ['a']"),
    ],
)
def test_bases_that_cannot_be_extended(files: Files, own: str, message: str) -> None:
    files(own=f"seed: 1\n{own}\n", round="extends: own.yaml\n", broken="a: 1\nb: [\n", list="[a]")
    with pytest.raises(UsageError) as error:
        load_recipe("own.yaml")
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_files_that_double_at_each_level_come_to_an_end(files: Files) -> None:
    files(**{f"r{n}": f"extends: [r{n + 1}.yaml, r{n + 1}.yaml]\n" for n in range(9)}, r9="seed: 3")
    with pytest.raises(UsageError, match="more than 100 files"):
        read_extended(Path("r0.yaml"))


def test_imports_are_relative_to_the_file_that_names_them(files: Files, own_parts: None) -> None:
    files(
        there__base=f"imports: [loss_there.py]\n{GOOD}",
        here__own="extends: ../there/base.yaml\nobjective: there\n",
    )
    Path("there/loss_there.py").write_text(LOSS.format(name="there"))
    recipe = load_recipe("here/own.yaml")
    assert recipe.imports == ["../there/loss_there.py"]
    assert recipe.files == {"../there/loss_there.py": Path("there/loss_there.py").resolve()}
    Path("there/loss_there.py").unlink()
    (found, *_) = problems(Path("here/own.yaml"))
    assert f"looked for here{os.sep}..{os.sep}there{os.sep}loss_there.py" in found
    Path("loss_there.py").write_text(LOSS.format(name="there"))
    assert load_recipe("here/own.yaml").imports == ["loss_there.py"], "of the working directory"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"a": {"name": "x", "b": 1, "c": 2}, "l": [1, 2]}, {}),
        ({"a": {"name": "x", "b": 3, "c": 2}, "l": [1, 2]}, {"a": {"b": 3}}),
        ({"a": {"name": "y", "b": 1}, "l": [1, 2]}, {"a": {"name": "y", "b": 1}}),
        ({"a": "x", "l": [1, 3], "n": 1}, {"a": "x", "l": [1, 3], "n": 1}),
        ({"a": {"name": "x", "b": 1}, "l": [1, 2]}, None),
        ({"l": [1, 2]}, None),
    ],
)
def test_changes_are_what_merging_needs(values: dict[str, Any], expected: Any) -> None:
    base = {"a": {"name": "x", "b": 1, "c": 2}, "l": [1, 2]}
    assert changes(base, values) == expected
    assert expected is None or merged(base, expected) == values
