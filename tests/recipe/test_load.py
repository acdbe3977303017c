from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robustprune.errors import InvalidError, UsageError
from robustprune.recipe import inconsistencies, load_recipe

Write = Callable[..., Path]

ROOT = Path(__file__).parents[2]
ALL_WRONG = """\
name: a/b
seed: 1.5
sead: 3
seed: 2
data: {name: digits, validaton: 0.1}
imports: [gone.py, no_such_module_here]
model:
  name: cnn_digits
  args: {pretrained: true}
objective:
  name: pdg
pretrain:
  epoch: 3
  optimizer: {name: sgd, lr: 8/0, momentum: 2}
  schedule:
    name: warmup
    after:
      name: cosine
      flor: 0.1
prune:
  epochs: true
  methods:
    - name: hydra
      allocation: {name: unifrm}
    - hydro
  densities: [0, 0.1, 1.5,
    .nan, .inf]
evaluate: clean
densities: [0.1]
"""


TWO_ALIKE = "{epochs: 1, methods: [hydra, {name: random, label: hydra}], densities: [1]}"


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(InvalidError) as error:
        load_recipe(path, overrides)
    assert str(error.value).splitlines() == [str(problem) for problem in error.value.problems]
    return str(error.value).splitlines()


def test_a_right_recipe_loads(write: Write) -> None:
    recipe = load_recipe(write())
    assert recipe.name == "toy"
    assert recipe.objective.registered_name == "pgd"
    assert load_recipe(str(write()), ["seed=3", "objective.eps=8/255"]).document() == {
        **recipe.document(),
        "seed": 3,
        "objective": {**recipe.document()["objective"], "eps": 8 / 255},
    }


def test_everything_wrong_is_told_at_once_in_the_file_s_order(write: Write) -> None:
    path = write()
    path.write_text(ALL_WRONG)
    found = problems(path, "compute.threads=0", "compute.devise=cpu", "evaluate.0=x", "nothing")
    places = [line.split(": ")[:2] for line in found]
    assert places == [
        ["r.yaml:2", "seed"],  # stands twice
        ["--set evaluate.0=x", "there is no '0' in 'clean'."],
        ["--set nothing", "expected key=value or key.subkey=value, e.g. seed=1."],
        ["r.yaml:1", "name"],
        ["r.yaml:3", "sead"],
        ["r.yaml:5", "data.validaton"],
        ["r.yaml:6", "imports.0"],
        ["r.yaml:6", "imports.1"],
        ["r.yaml:9", "model.args"],
        ["r.yaml:11", "objective.name"],
        ["r.yaml:12", "pretrain.epochs"],
        ["r.yaml:13", "pretrain.epoch"],
        ["r.yaml:14", "pretrain.optimizer.lr"],
        ["r.yaml:14", "pretrain.optimizer.momentum"],
        ["r.yaml:19", "pretrain.schedule.after.flor"],
        ["r.yaml:21", "prune.epochs"],
        ["r.yaml:24", "prune.methods.0.allocation.name"],
        ["r.yaml:25", "prune.methods.1.name"],
        ["r.yaml:26", "prune.densities.0"],
        ["r.yaml:26", "prune.densities.2"],
        ["r.yaml:27", "prune.densities.3"],
        ["r.yaml:27", "prune.densities.4"],
        ["r.yaml:28", "evaluate"],
        ["r.yaml:29", "densities"],
        ["--set compute.devise=cpu", "compute.devise"],
        ["--set compute.threads=0", "compute.threads"],
    ]
    hints = ["seed", "validation", "pgd", "epochs", "floor", "uniform", "hydra", "device"]
    assert all(f"Did you mean '{hint}'?" in str(found) for hint in hints)
    assert "It belongs under 'prune'." in found[-3]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"pretrain": "{epoch: 3}"},
            "r.yaml:5: pretrain.epoch: unknown key 'epoch'. Did you mean 'epochs'? Choices: "
            "accumulate, batch_size, epochs, objective, optimizer, schedule, select, share.",
        ),
        (
            {"pretrain": None},
            "r.yaml:1: pretrain: this key is required. Trains the dense network. Keys: epochs, "
            "batch_size, accumulate, select, share, optimizer, schedule, objective.",
        ),
        (
            {"objective": "pdg"},
            "r.yaml:4: objective.name: unknown objective 'pdg'. Did you mean 'pgd'? Choices: ",
        ),
        (
            {"evaluate": "clean"},
            "r.yaml:8: evaluate: expected a list; got 'clean': write [clean].",
        ),
        ({"evaluate": ""}, "r.yaml:8: evaluate: expected a list; got nothing: write []"),
        ({"data": "{validation: 0.1}"}, "r.yaml:2: data: expected a name or {name: …, option: …};"),
        ({"data": "{name: digits, root: x}"}, "'digits' comes with scikit-learn"),
        ({"model": ""}, "r.yaml:3: model: expected a mapping with the keys name, num_classes"),
        ({"name": "12"}, "r.yaml:1: name: expected text; got 12: put it in quotes."),
        ({"pretrain": "{epochs: ten}"}, "pretrain.epochs: expected a whole number; got 'ten'."),
        ({"pretrain": "{epochs: " + "9" * 400 + "}"}, "pretrain.epochs: whole numbers go up to"),
        ({"objective": "{name: pgd, eps: 8/0}"}, "objective.eps: '8/0' divides by zero."),
        ({"objective": "{name: pgd, eps: no}"}, "objective.eps: expected a number; got false."),
        ({"objective": "{name: pgd, eps: 8 / 255 px}"}, "expected a number such as 0.5 or 8/255;"),
        ({"finetune": "{epochs: 1, optimizer: }"}, "r.yaml:7: finetune.optimizer: expected a name"),
        ({"compute": "{device: gpu}"}, "compute.device: should be 'auto' or 'cpu'; got 'gpu'."),
        ({"tracking": "{uri: 3}"}, "tracking.uri: expected text; got 3: put it in quotes."),
    ],
)
def test_each_fault_is_told_so_that_no_manual_is_needed(
    sections: dict[str, str | None], message: str, write: Write
) -> None:
    found = problems(write(**sections))
    assert any(message in line for line in found), found
    assert len(found) <= 2


def test_text_stays_text_and_free_arguments_become_numbers(write: Write) -> None:
    path = write(
        name="1e-4",
        data="{name: cifar10, root: 2/3}",
        model="{name: cnn_small, args: {rate: 8/255, deep: {c: [1e-4, x]}, flag: true}}",
    )
    document = load_recipe(path).document()
    assert document["name"] == "1e-4"
    assert document["data"]["root"] == "2/3"
    expected = {"rate": 8 / 255, "deep": {"c": [1e-4, "x"]}, "flag": True}
    assert document["model"]["args"] == expected


def test_a_name_alone_is_short_for_every_part_and_for_the_model(write: Write) -> None:
    path = write(
        data="digits",
        model="cnn_digits",
        objective="trades",
        evaluate="[clean]",
        pretrain="{epochs: 1, schedule: {name: warmup, after: constant}, optimizer: adam}",
    )
    document = load_recipe(path, ["prune.methods.0.allocation=erk"]).document()
    assert document["model"]["name"] == "cnn_digits"
    assert document["pretrain"]["schedule"]["after"] == {"name": "constant"}
    assert document["prune"]["methods"][0]["allocation"] == {"name": "erk"}


@pytest.mark.parametrize(
    ("sections", "place"),
    [
        ({"data": "digits", "pretrain": "{epochs: 1, select: best}"}, "r.yaml:5: pretrain.select"),
        ({"data": "digits", "finetune": "{epochs: 1, select: best}"}, "r.yaml:7: finetune.select"),
        ({"objective": "free", "pretrain": "{epochs: 1, accumulate: 2}"}, "pretrain.accumulate"),
        ({"evaluate": "[clean, pgd, {name: clean, samples: 5}]"}, "r.yaml:8: evaluate.2: 'clean'"),
        (
            {"prune": "{epochs: 1, methods: [hydra, random, hydra], densities: [0.1]}"},
            "r.yaml:6: prune.methods.2: 'hydra' stands 2 times; give it a 'label'",
        ),
        (
            {"prune": "{epochs: 1, methods: [hydra], densities: [0.1, 1/10]}"},
            "r.yaml:6: prune.densities.1: '0.1' stands 2 times; drop it.",
        ),
        (
            {"prune": TWO_ALIKE},
            "prune.methods.1: 'hydra'",
        ),
    ],
)
def test_what_does_not_go_together_is_told(
    sections: dict[str, str], place: str, write: Write
) -> None:
    (problem,) = problems(write(**sections))
    assert place in problem


@pytest.mark.parametrize(
    "sections",
    [
        {"pretrain": "{epochs: 1, select: best}"},
        {"objective": "pgd", "pretrain": "{epochs: 1, accumulate: 2}"},
        {"evaluate": "[clean, {name: clean, label: few, samples: 5}]"},
        {"prune": "{epochs: 1, methods: [hydra, {name: hydra, label: h}], densities: [1, 0.1]}"},
        {"prune": None, "finetune": None, "evaluate": None},
    ],
)
def test_what_goes_together_is_not(sections: dict[str, str], write: Write) -> None:
    assert inconsistencies(load_recipe(write(**sections))) == []


@pytest.mark.usefixtures("own_parts")
def test_one_s_own_part_is_validated_like_ours(write: Write) -> None:
    path = write(imports="[losses.py]", objective="{name: mine, wait: 1}")
    Path("losses.py").write_text(
        "import robustprune as rp\n"
        "@rp.objectives.register('mine')\n"
        "class Mine(rp.Objective):\n    weight: float = 1\n"
    )
    (problem,) = problems(path)
    assert problem.startswith(
        "r.yaml:4: objective.wait: unknown key 'wait'. Did you mean 'weight'?"
    )
    recipe = load_recipe(path, ["objective={name: mine, weight: 8/255}"])
    assert recipe.document()["objective"] == {"name": "mine", "weight": 8 / 255}


@pytest.mark.usefixtures("own_parts")
def test_what_an_import_breaks_is_told_beside_the_rest(write: Write) -> None:
    path = write(imports="[broken.py]", objective="mine", seed="x")
    Path("broken.py").write_text("x = 1\n1/0\n")
    assert [line.split(": ")[1] for line in problems(path)] == [
        *("objective.name", "imports.0", "seed")
    ]


def test_a_file_that_cannot_be_read_is_one_clear_line(write: Write) -> None:
    write()
    with pytest.raises(UsageError, match=r"cannot read the recipe rr\.yaml: No such file") as error:
        load_recipe("rr.yaml")
    assert "Did you mean 'r.yaml'?" in str(error.value)


def test_validation_imports_no_heavy_library() -> None:
    code = (
        "import json, sys\nfrom robustprune.recipe import load_recipe\n"
        "load_recipe('recipes/quickstart.yaml')\n"
        "heavy = {'torch', 'torchvision', 'timm', 'mlflow', 'sklearn', 'scipy', 'numpy', 'PIL'}\n"
        "print(json.dumps(sorted(heavy & set(sys.modules))))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert json.loads(found.stdout) == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_that_comes_with_the_package_is_right(path: Path) -> None:
    assert load_recipe(path).evaluate
