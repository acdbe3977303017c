"""Sixty natural mistakes, twenty of each user: one screen with the value, choices and a remedy."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml

from robustprune.pipeline import RunResult

from ..pipeline import tiny
from .conftest import Command


class Mistake(NamedTuple):
    """One row: what is typed, and what the screen must show."""

    typed: str
    value: str
    choices: str
    remedy: str


RESEARCHER = [
    Mistake("eval a.safetensors", "'eval'", "evaluate, export", "Did you mean 'evaluate'?"),
    Mistake("train tiny.yaml", "'train'", "run, schema", "Did you mean 'run'?"),
    Mistake("run quikstart", "quikstart", "robustprune recipes", "Did you mean 'quickstart'?"),
    Mistake("tiny.yaml", "'tiny.yaml'", "run, schema", "robustprune run tiny.yaml"),
    Mistake(
        "run tiny.yaml --epochs 10", "arguments: --epochs", "prune.…", "--set pretrain.epochs=10"
    ),
    Mistake(
        "run tiny.yaml --gpu", "arguments: --gpu", "'auto' by default", "--set compute.device=auto"
    ),
    Mistake("check tiny.yaml --seed=1", "arguments: --seed=1", "--set", "--set seed=1"),
    Mistake(
        "run tiny.yaml --sparsity 90", "arguments: --sparsity", "share", "'prune.densities=[0.1]'"
    ),
    Mistake("run tiny.yaml --batch-size 64", "arguments: --batch-size", "--set", "batch_size=64"),
    Mistake(
        "run tiny.yaml --lr .1", "arguments: --lr", "finetune.…", "--set pretrain.optimizer.lr=.1"
    ),
    Mistake("run tiny.yaml --attack pgd", "arguments: --attack", "--set", "--set 'evaluate=[pgd]'"),
    Mistake("run tiny.yaml seed=1", "seed=1", "--set", "--set seed=1"),
    Mistake("run tiny.yaml --set prune.densities=[90]", "got 90", "less than", "0.1 prunes 90 %"),
    Mistake("run tiny.yaml --set prune.densities=0.1", "got 0.1", "a list", "Write [0.1]"),
    Mistake("run tiny.yaml --set sparsity=0.9", "'sparsity'", "'prune'", "sparsity is density 0.1"),
    Mistake("run tiny.yaml --set objective.eps=8", "got 8", "from 0 to 1", "8/255?"),
    Mistake(
        "run tiny.yaml --set objective.epsilon=8/255", "'epsilon'", "eps, random", "mean 'eps'"
    ),
    Mistake("run tiny.yaml --set pretrain.lr=0.1", "'lr'", "belongs under", "'optimizer'"),
    Mistake("run tiny.yaml --set objective=PGD", "'PGD'", "pgd, pwoa", "Did you mean 'pgd'?"),
    Mistake("run tiny.yaml --set gpu=true", "'gpu'", "under 'compute'", "called 'device'"),
]
ENGINEER = [
    Mistake("evaluate net.pt", "net.pt", "in a recipe", "--arch NAME"),
    Mistake("evaluate net.pt --arch resnet18", "resnet18", "--data", "num_classes: 10"),
    Mistake("evaluate net.pt --arch cnn_digitz", "cnn_digitz", "choices", "mean 'cnn_digits'?"),
    Mistake("evaluate net.pt --arch resnet18 --data CIFAR10", "'CIFAR10'", "mnist", "'cifar10'?"),
    Mistake(
        "evaluate run", "run is a folder", "run/dense/model.safetensors", "Name a network in it"
    ),
    Mistake("export run/hydra-0.1", "run/hydra-0.1", "model.safetensors", "Name a network in it"),
    Mistake("evaluate run/dense/model.pt", "model.pt", "Choices:", "mean 'run/dense/model.safet"),
    Mistake(
        "evaluate tiny.yaml", "tiny.yaml is a recipe", "writes networks", "robustprune run tiny"
    ),
    Mistake(
        "evaluate {model} --attack pgd",
        "arguments: --attack",
        "--samples",
        "Did you mean '--evaluator'",
    ),
    Mistake(
        "evaluate {model} --eps 8/255", "arguments: --eps", "evaluator", "--evaluator pgd:eps=8/255"
    ),
    Mistake(
        "evaluate {model} --evaluator pgd,eps=0.1", "'pgd,eps=0.1'", "KEY=VALUE", "pgd:eps=0.1"
    ),
    Mistake("evaluate {model} --evaluator PGD", "'PGD'", "clean, crown", "Did you mean 'pgd'?"),
    Mistake(
        "evaluate {model} --evaluator pgd:iterations=3", "'iterations'", "restarts", "'steps'?"
    ),
    Mistake("evaluate {model} --measures speed", "'speed'", "flops, latency", "mean 'latency'?"),
    Mistake("evaluate {model} --data cifar10", "'cifar10'", "airplane", "--classes"),
    Mistake("evaluate {model} --data imagefolder --root no", "val/ was not", "no/train", "--root"),
    Mistake("evaluate {model} --device cuda", "'cuda'", "auto, cpu", "Did you mean 'auto'?"),
    Mistake("verify {model} --eps 8", "got 8", "from 0 to 1", "8/255?"),
    Mistake(
        "export {model} --format onxx",
        "'onxx'",
        "int8, onnx",
        "Did you mean 'onnx'?",
    ),
    Mistake("check tiny.yaml --set model=vgg16_bn_cifar", "8x8", "16x16", "such as cnn_small"),
]
BEGIN = """
    def begin(self, stage, masked):
        {}
"""
LOSS = "class Mine(rp.Objective):\n    '''Mine.'''\n"
CALL = "    def __call__(self, model, images, labels, progress):\n        logits = model(images)\n"
RETURN = "        return rp.Loss(F.cross_entropy(logits, labels), logits, {})\n"
MINE = f"@rp.objectives.register('mine')\n{LOSS}"
PRUNER = """@rp.pruners.register('mine')
class Mine(rp.Pruner):
    '''Mine.'''

    def stages(self, density, recipe):
        return [rp.Stage('finetune', self.section('finetune', recipe))]

    def method(self, context):
        return MineMethod(self, context)


class MineMethod(rp.Method):
    '''Mine.'''

"""
CHECK, RUN = "check --part mine.py", "check tiny.yaml --set imports=[mine.py] --set objective=mine"
AUTHOR = {
    Mistake(RUN, "unknown objective 'mine'", "pgd, pwoa", "write @rp.objectives.register('mine')"):
        LOSS + CALL + RETURN,
    Mistake(CHECK, "registers no part", "objectives, pruners", "Write @rp.objectives.register("):
        LOSS + CALL + RETURN,
    Mistake(RUN, "mine.py:5", "write @register('a_name')", "above Mine"):
        f"@rp.objectives.register\n{LOSS}{CALL}{RETURN}",
    Mistake(RUN, "mine.py:5", "Mine must extend", "Objective"):
        "@rp.objectives.register('mine')\nclass Mine:\n    pass\n",
    Mistake(RUN, "'mine' is already registered", "Mine", "Register Other under another name"):
        f"{MINE}{CALL}{RETURN}\n\n@rp.objectives.register('mine')\nclass Other(Mine):\n    pass\n",
    Mistake(CHECK, "negative in 0.weight, 3.weight", "at least 0", "take its abs()"):
        PRUNER + BEGIN.format("self.keep(masked, dict(masked.weights))"),
    Mistake(RUN, "SyntaxError at", "mine.py:7", "expected ':'"):
        "@rp.objectives.register('mine')\n\nclass Mine(rp.Objective)\n    pass\n",
    Mistake(RUN, "No module named 'numpyy'", "ModuleNotFoundError", "mine.py:5"):
        "import numpyy\n",
    Mistake(RUN, "`count = 0`", "All model fields require a type annotation", "ClassVar"):
        f"{MINE}    count = 0\n{CALL}{RETURN}",
    Mistake(CHECK, "parts are frozen", "self.steps = 1", "PrivateAttr"):
        f"{MINE}{CALL}        self.steps = 1\n{RETURN}",
    Mistake(RUN, "objective.beta", "parts are frozen", "`beta: float = 1.0`"):
        f"{MINE}    def __init__(self, beta=1):\n        self.beta = beta\n{CALL}{RETURN}",
    Mistake(CHECK, "got Tensor", "a finite scalar, logits of the batch", "return rp.Loss(total"):
        f"{MINE}{CALL}        return F.cross_entropy(logits, labels)\n",
    Mistake(CHECK, "takes 4 positional", "5 were given", "__call__(self, model, images, labels"):
        f"{MINE}{CALL.replace(', progress', '')}{RETURN}",
    Mistake(CHECK, "mine.py:5", "Mine must define loss", "(model, images, attacked"): MINE,
    Mistake(CHECK, "images were changed in place", "mine.py:8", "clone them"):
        MINE + CALL.replace("        logits", "        images.mul_(0.5)\n        logits") + RETURN,
    Mistake(CHECK, "got float", "judge must give tensors by name", "mine.py:5"):
        "@rp.evaluators.register('mine')\nclass Mine(rp.Evaluator):\n    '''Mine.'''\n\n"
        "    def judge(self, model, images, labels, *, seed):\n        return 0.5\n",
    Mistake(CHECK, "keeps 252, not 13", "density", "mine.py:12"): f"{PRUNER}    pass\n",
    Mistake(CHECK, "mine.py:21, in begin", "expected booleans", "A method's keep(masked, import"):
        PRUNER + BEGIN.format("masked.set({n: w.abs() for n, w in masked.weights.items()})"),
    Mistake(CHECK, "masks cannot change inside cached()", "in penalty", "leave it first"):
        PRUNER + BEGIN.format("self.keep(masked, {n: w.abs() for n, w in masked.weights.items()})")
        + "\n    def penalty(self, stage, masked, progress):\n        masked.set(masked.masks)\n",
    Mistake(CHECK, "class Mine", "abstract methods channels, image_size", "open"):
        "@rp.datasets.register('mine')\nclass Mine(rp.Dataset):\n    '''Mine.'''\n",
}  # fmt: skip
HEAD = "import robustprune as rp\nimport torch\nfrom torch.nn import functional as F\n\n"
TEXTS = {
    "name: tiny\nprune:\n\tepochs: 2\n": ("tiny.yaml:3", "spaces, not with tabs"),
    "name: tiny\ndata: {name:digits}\n": ("tiny.yaml:2", "a space must follow the colon"),
}


def assert_told(command: Command, typed: str, *fragments: str) -> None:
    """One screen, exit code 2, no traceback, and all that it must show."""
    said = command(*shlex.split(typed))
    assert said.code == 2, said
    screen = said.out + said.err
    assert "Traceback" not in screen
    assert len(screen.splitlines()) <= 25, screen
    for fragment in fragments:
        assert fragment in screen


@pytest.fixture
def folder(here: Path, small: RunResult) -> Path:
    """A folder with a recipe, a run, and a file of weights."""
    tiny.write(here)
    (here / "run").symlink_to(small.folder, target_is_directory=True)
    torch.save({"weight": torch.zeros(3, 3)}, here / "net.pt")
    return here


def test_there_are_twenty_of_each_user() -> None:
    assert [len(table) for table in (RESEARCHER, ENGINEER, AUTHOR)] == [20, 20, 20]


@pytest.mark.parametrize("mistake", [*RESEARCHER, *ENGINEER], ids=lambda row: row.typed)
def test_a_researcher_and_an_engineer_are_told(
    mistake: Mistake,
    command: Command,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("ROBUSTPRUNE_DATA", raising=False)
    typed = mistake.typed.format(model="run/dense/model.safetensors")
    assert_told(command, typed, *mistake[1:])
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(("mistake", "code"), AUTHOR.items(), ids=range(20))
def test_an_author_is_told(
    mistake: Mistake,
    code: str,
    command: Command,
    folder: Path,
    own_parts: None,
) -> None:
    (folder / "mine.py").write_text(f"{HEAD}{code}# {folder}\n")
    assert_told(command, mistake.typed, *mistake[1:])


@pytest.mark.parametrize("text", TEXTS, ids=["a tab", "no space"])
def test_yaml_is_explained(text: str, command: Command, folder: Path) -> None:
    (folder / "tiny.yaml").write_text(text)
    assert_told(command, "check tiny.yaml", *TEXTS[text])


def test_every_translated_option_is_a_change_that_a_recipe_takes() -> None:
    """What a hint says works: an unknown key would be an unkept promise."""
    from robustprune.cli.hints import _SETTINGS
    from robustprune.components import build
    from robustprune.recipe import Recipe
    from robustprune.recipe.document import Document

    values = {"optimizer": "adam", "method": "magnitude", "pruner": "magnitude"}
    values |= {"model": "cnn_small", "arch": "cnn_small", "data": "mnist", "dataset": "mnist"}
    values |= {"objective": "trades", "loss": "trades", "attack": "pgd", "evaluator": "clean"}
    values |= {"precision": "bf16", "weights": "net.pt", "name": "mine"}
    values |= dict.fromkeys(("device", "gpu", "cuda"), "auto")
    values |= dict.fromkeys(("lr", "learning-rate", "weight-decay", "momentum", "eps"), "0.1")
    values |= dict.fromkeys(("epsilon", "density", "densities", "sparsity"), "0.1")
    for option, change in _SETTINGS.items():
        document = Document("tiny.yaml", yaml.safe_dump(tiny.RECIPE))
        document.override(change.format(values.get(option, "1")))
        assert not document.problems, option
        build(Recipe, document.values)
