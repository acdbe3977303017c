from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from robustprune.errors import InvalidError, UsageError
from robustprune.recipe import inconsistencies, load_recipe
from robustprune.recipe.document import dump

Write = Callable[..., Path]

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
        ["--set compute.threads=0", "compute.threads"],
        ["--set compute.devise=cpu", "compute.devise"],
    ]
    hints = ["seed", "validation", "pgd", "epochs", "floor", "uniform", "hydra", "device"]
    assert all(f"Did you mean '{hint}'?" in str(found) for hint in hints)
    assert "It belongs under 'prune'." in found[-3]


STAGE_KEYS = "epochs, batch_size, accumulate, select, share, optimizer, schedule, objective."
FAULTS = [
    (
        "pretrain: {epochs: 1, epoch: 3}",
        "r.yaml:5: pretrain.epoch: unknown key 'epoch'. Did you mean 'epochs'",
    ),
    (
        "pretrain: {epochs: 1, epoch: 3}",
        "Choices: accumulate, batch_size, epochs, objective, optimizer, ",
    ),
    ("pretrain:", f"pretrain: this key is required. Trains the dense network. Keys: {STAGE_KEYS}"),
    ("objective: pdg", "r.yaml:4: objective.name: unknown objective 'pdg'. Did you mean 'pgd'?"),
    (
        "evaluate: clean",
        "r.yaml:8: evaluate: expected a list in brackets such as [a, b]; got 'clean'.",
    ),
    ("evaluate: ", "r.yaml:8: evaluate: expected a list in brackets such as [a, b]; got nothing."),
    ("data: {validation: 0.1}", "r.yaml:2: data: expected a name or {name: …, option: …};"),
    ("data: {name: digits, root: x}", "'digits' comes with scikit-learn"),
    ("model: ", "r.yaml:3: model: expected a mapping with the keys name, num_classes"),
    ("pretrain: {epochs: ten}", "pretrain.epochs: expected a whole number; got 'ten'."),
    ("pretrain: {epochs: " + "9" * 400 + "}", "pretrain.epochs: whole numbers go up to"),
    ("objective: {name: pgd, eps: no}", "objective.eps: expected a number; got false."),
    ("objective: {name: pgd, eps: 8 / 255 px}", "expected a number such as 0.5 or 8/255;"),
    ("finetune: {epochs: 1, optimizer: }", "r.yaml:7: finetune.optimizer: expected a name"),
    ("compute: {device: gpu}", "compute.device: should be 'auto' or 'cpu'; got 'gpu'."),
    ("compute: {sparse: 1}", "compute.sparse: should be 'auto', 'on' or 'off'; got 1."),
    ("tracking: {uri: 3}", "tracking.uri: expected text in quotes; got 3."),
    # what does not go together
    ("finetune: {epochs: 1, select: best}", "r.yaml:7: finetune.select: needs a validation split"),
    ("pretrain: {epochs: 1, accumulate: 2}", "r.yaml:5: pretrain.accumulate: objective 'free'"),
    ("evaluate: [clean, pgd, {name: clean, samples: 5}]", "r.yaml:8: evaluate.2: 'clean'"),
    (
        "prune: {methods: [hydra, {name: random, label: hydra}], densities: [1], epochs: 1}",
        "r.yaml:6: prune.methods.1: 'hydra' stands 2 times; give it a 'label'",
    ),
    (
        "prune: {methods: [hydra], densities: [0.1, 1/10], epochs: 1}",
        "r.yaml:6: prune.densities.1: '0.1' stands 2 times; drop it.",
    ),
    # what no paper could report
    ("paper: {metrics: {}}", "paper.source: this key is required"),
    ("paper: {source: x, metrics: {pgd: {dense: 51.9}}}", "r.yaml:9: paper.metrics.pgd.dense: "),
    (
        "paper: {source: x, metrics: {pgd: {hydra: 0.1}}}",
        "got 'hydra'. For each metric, named as in results.json",
    ),
    ("paper: {source: x, metrics: {pgd: {hydra-0.10: 0.1}}}", "got 'hydra-0.10'. For each"),
    ("paper: {source: x, metrics: {pgd: {hydra-90: 0.1}}}", "got 'hydra-90'. For each"),
    ("paper: {source: x, metrics: {pgd: {-0.1: 0.1}}}", "got '-0.1'. For each"),
    ("paper: {source: x, metrics: {'a b': {dense: 0.1}}}", "got 'a b'. For each"),
]


@pytest.mark.parametrize(("section", "message"), FAULTS)
def test_each_fault_is_told_so_that_no_manual_is_needed(
    section: str, message: str, write: Write
) -> None:
    key, colon, text = section.partition(": ")
    sections = {"data": "digits"} if "best" in text else {}
    sections |= {"objective": "free"} if "accumulate" in text else {}
    found = problems(write(**sections, **{key.rstrip(":"): text if colon else None}))
    assert len(found) == 1
    assert message in found[0]


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
def test_what_goes_together_is_right(sections: dict[str, str], write: Write) -> None:
    assert inconsistencies(load_recipe(write(**sections))) == []


@pytest.mark.parametrize(
    ("text", "value"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'off'", "off")]
)
def test_a_switch_is_written_as_yaml_has_it(text: str, value: str, write: Write) -> None:
    recipe = load_recipe(write(compute=f"{{sparse: {text}}}"))
    assert recipe.compute.sparse == value
    again = Path("again.yaml")
    again.write_text(dump(recipe.document()), encoding="utf-8")
    assert load_recipe(again).document() == recipe.document()


SPARSE = "{sparse: on}"


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"compute": "{sparse: on, precision: bf16}"}, "compute.sparse: on trains in fp32 only"),
        (
            {"prune": "{methods: [hydra, rigl], densities: [0.1], epochs: 1}"},
            "prune.methods.1: pruner 'rigl' moves its masks in all that it trains ('train')",
        ),
        (
            {"finetune": "{epochs: 1, objective: crown_ibp}"},
            "prune.methods.0: pruner 'hydra' trains by objective 'crown_ibp', which needs the",
        ),
    ],
)
def test_what_sparse_kernels_cannot_train_is_told(
    sections: dict[str, str], message: str, write: Write
) -> None:
    (found,) = problems(write(**({"compute": SPARSE} | sections)))
    assert message in found
    assert "Use " in found
    assert "auto" in found


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"prune": "{methods: [magnitude, snip, lottery, gradual], densities: [0.1], epochs: 1}"},
        {"prune": "{methods: [magnitude], densities: [0.1]}", "finetune": None},
        {"prune": None, "objective": "crown_ibp", "finetune": None},
    ],
)
def test_what_they_can_is_right(sections: dict[str, str], write: Write) -> None:
    load_recipe(write(**({"compute": SPARSE} | sections)))


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
    assert document["prune"]["methods"][0]["allocation"] == {"name": "erk", "minimum": 0}


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "message", "light"),
    [
        ("name: [", "this is not YAML", ["torch"]),
        ("name: x\nsed: 1\n", "unknown key 'sed'", []),
    ],
)
def test_an_answer_waits_for_no_library_that_it_does_not_need(
    recipe: str, message: str, light: list[str], tmp_path: Path
) -> None:
    heavy = ["timm", "mlflow", "torchattacks", "auto_LiRPA", "accelerate", "sklearn", "pyarrow"]
    (tmp_path / "r.yaml").write_text(recipe, encoding="utf-8")
    code = (
        "import sys\nfrom robustprune.cli import main\nassert main(['check', 'r.yaml']) == 2\n"
        f"print(sorted({{*{heavy + light}}} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", code]
    found = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert message in found.stderr
    assert found.stdout == "[]\n"


def test_numbers_of_a_paper_are_kept(write: Write) -> None:
    numbers = "{dense: 51.9 / 100, hydra-0.1: 0.495, my-own.1-0.005: 1, magnitude-1e-05: 0}"
    recipe = load_recipe(write(paper=f"{{source: HYDRA, metrics: {{pgd: {numbers}}}}}"))
    kept = {"dense": 0.519, "hydra-0.1": 0.495, "my-own.1-0.005": 1, "magnitude-1e-05": 0}
    assert recipe.document()["paper"] == {"source": "HYDRA", "metrics": {"pgd": kept}}
