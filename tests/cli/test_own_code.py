"""Parts in a file of one's own: they do all that built-in ones do, and errors name their line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from robustprune.artifacts.reading import read_model

from ..pipeline import tiny
from .conftest import Command

OWN = '''
import torch
from torch.nn import functional as F

import robustprune as rp
from robustprune.evaluators.base import Evaluator
from robustprune.training import optimizers, schedules
from helper import boom


@rp.objectives.register("mine")
class Mine(rp.Objective):
    """Cross-entropy, plus a penalty on the logits."""

    penalty: float = 1 / 8
    """Weight of the penalty."""

    def model_post_init(self, context):
        pass  # construct

    def __call__(self, model, images, labels, progress):
        logits = model(images)
        size = logits.square().mean()
        total = F.cross_entropy(logits, labels) + self.penalty * size
        parts = {"size": size.detach()}
        pass  # loop
        return rp.Loss(total, logits, parts)


@schedules.register("my_schedule")
class MySchedule(schedules.Schedule):
    """Mine."""

    def __call__(self, progress):
        return 1.0  # schedule


@optimizers.register("my_optimizer")
class MyOptimizer(optimizers.OptimizerPart):
    """Mine."""

    def build(self, parameters):
        return torch.optim.SGD(parameters, self.lr)  # optimizer


@rp.evaluators.register("my_evaluator")
class MyEvaluator(Evaluator):
    """Mine."""

    def judge(self, model, images, labels, *, seed):
        found = {self.metric: labels == labels}
        pass  # judge
        return found

    def summarise(self, images):
        pass  # summarise
        return super().summarise(images)


@rp.datasets.register("my_data")
class MyData(rp.datasets.Dataset):
    """Mine: a method is missing."""
'''
MINE = {"imports": ["mine.py"], "objective": {"name": "mine"}}
CHANGES = {
    **MINE,
    "prune": None,
    "finetune": None,
    "pretrain": {
        "schedule": {"name": "my_schedule"},
        "optimizer": {"name": "my_optimizer", "lr": 0.1},
    },
    "evaluate": [{"name": "my_evaluator", "samples": 8}],
}
DROPPED = {"objective": None, "pretrain": {"optimizer": None}}


@pytest.fixture(autouse=True)
def helper(own_parts: None, monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    (here / "helper.py").write_text("def boom():\n    raise LookupError('in the helper')\n")
    monkeypatch.syspath_prepend(here)


def write(here: Path, place: str, code: str) -> tuple[Path, int]:
    """The recipe, with code in place of a line that says so; and that line's number."""
    lines = [*OWN.splitlines(), f"# {here}"]  # one content is run once
    (number,) = [n for n, line in enumerate(lines) if line.endswith(f"# {place}")] or [0]
    indent = len(lines[number]) - len(lines[number].lstrip())
    lines[number] = " " * indent + code if number else lines[number]
    (here / "mine.py").write_text("\n".join(lines))
    return tiny.write(here, DROPPED, CHANGES), number + 1


@pytest.mark.slow
def test_it_does_everything_that_a_built_in_one_does(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed, validated, trained with, logged, and kept with the run, which repeats it."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "store")  # a plain folder is made faster than SQLite
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (here / "recipes").mkdir()
    write(here / "recipes", "nothing", "")
    tracked = {"tracking": {"enabled": True}}
    recipe = tiny.write(here / "recipes", tiny.SMALL, {"objective": None}, MINE, tracked)
    listed = command("list", "objectives", "mine", "--recipe", recipe).out
    assert listed.startswith("mine: Cross-entropy, plus a penalty on the logits.\n")
    assert "    penalty (float) = 0.125: Weight of the penalty." in listed
    words = ("run", recipe, "--set", "objective.penalty=2/10", "--max-steps", "1", "--out", "run")
    wrong = command(*words, "--set", "objective.penaltee=1")
    assert wrong.code == 2
    assert "Did you mean 'penalty'?" in wrong.err
    said = command(*words)
    assert (said.code, said.err) == (0, "")
    history = json.loads((here / "run" / "hydra-0.1" / "history.json").read_text())
    assert all(entry["metrics"]["size"] > 0 for entry in history)
    model = here / "run" / "dense" / "model.safetensors"
    assert read_model(model).metadata["objective"] == {"name": "mine", "penalty": 0.2}
    client = MlflowClient(tracking_uri=str(here / "store"))
    experiment = client.get_experiment_by_name("robustprune")
    runs = [run.data for run in client.search_runs([experiment.experiment_id])]
    assert "0.2" in [run.params.get("objective.penalty") for run in runs]
    assert any({"prune/size", "finetune/size"} <= run.metrics.keys() for run in runs)

    kept = here / "run" / "imports" / "mine.py"
    assert kept.read_text() == (here / "recipes" / "mine.py").read_text()
    (here / "recipes" / "mine.py").unlink()
    words = ("run", "run/recipe.yaml", "--max-steps", "1", "--set", "tracking.enabled=false")
    assert command(*words, "--out", "again", "--fresh").code == 0
    assert (here / "again" / "dense" / "model.safetensors").read_bytes() == model.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("loop", "1 / 0", "{line}, in __call__: ZeroDivisionError: division by zero\n  1 / 0"),
        ("loop", "assert images is None, 'claim'", "{line}, in __call__: AssertionError: claim"),
        ("judge", "{}['x']", "{line}, in judge: KeyError: 'x'"),
        ("summarise", "raise RuntimeError", "{line}, in summarise: RuntimeError"),
        ("schedule", "return progress.nothing", "{line}, in __call__: AttributeError: "),
        ("optimizer", "return torch.optim.Nothing()", "{line}, in build: AttributeError: "),
        ("loop", "return total", "objective 'mine' must give Loss(total, logits, parts)"),
        ("loop", "logits = logits[1:]", "(64, classes) and by name (); got"),
        ("loop", "parts = {'size': 0.5}", "got size no tensor"),
        ("loop", "total = total.detach()", "a total without a graph"),
        ("judge", "return [1]", "judge must give tensors by name"),
        ("judge", "return {'x': labels > 0}", "judge must give an entry 'my_evaluator'"),
        ("judge", "return {self.metric: labels[1:] > 0}", "one value an image, shape (8,)"),
        ("schedule", "return None", "schedule 'my_schedule' must give a number; got None"),
        ("optimizer", "return None", "must build a torch.optim.Optimizer; got NoneType"),
    ],
)
def test_a_part_that_raises_or_gives_something_else_is_named(
    place: str, code: str, words: str, command: Command, here: Path
) -> None:
    recipe, line = write(here, place, code)
    said = command("run", recipe, "--quiet")
    assert said.code == 2
    assert said.err.startswith(f"error: {here / 'mine.py'}:")
    assert words.replace("{line}", f"mine.py:{line}") in said.err
    assert "Traceback" not in said.err
    assert "\nMend the file. What was finished is kept. Resume with: robustprune run " in said.err


def test_an_error_of_a_file_beside_it_counts_too(command: Command, here: Path) -> None:
    recipe, _ = write(here, "judge", "boom()")
    said = command("run", recipe, "--quiet")
    assert said.code == 2
    assert f"{here / 'helper.py'}:2, in boom: LookupError: in the helper" in said.err


def test_an_error_at_construction_has_nothing_to_go_on_with(command: Command, here: Path) -> None:
    recipe, line = write(here, "construct", "{}['x']")
    for verb in ("run", "check"):
        said = command(verb, recipe)
        assert said.code == 2
        assert f"error: {here / 'mine.py'}:{line}, in model_post_init: KeyError: 'x'" in said.err
        assert "--resume" not in said.err
    write(here, "nothing", "")
    said = command("check", recipe, "--set", "data={name: my_data}")
    assert said.code == 2
    assert "in MyData: Can't instantiate abstract class MyData" in said.err


def test_a_run_that_goes_on_keeps_the_mended_file(command: Command, here: Path) -> None:
    recipe, _ = write(here, "judge", "1 / 0")
    said = command("run", recipe, "--quiet", "--out", "run")
    line = shlex.split(said.err.partition("Resume with: ")[2])
    assert line[-1] == "--resume"
    (here / "run" / "imports" / "mine.py").write_text("")
    command(*line[1:])  # this process knows the file as it was
    assert (here / "run" / "imports" / "mine.py").read_text() == (here / "mine.py").read_text()


def test_of_what_a_call_refuses_the_line_of_the_file_is_told(command: Command, here: Path) -> None:
    code = """import torch
import robustprune as rp


@rp.pruners.register("layers")
class Layers(rp.Pruner):
    def stages(self, density, recipe):
        return [rp.Stage("finetune", self.section("finetune", recipe))]

    def method(self, context):
        return LayersMethod(self, context)


class LayersMethod(rp.Method):
    def begin(self, stage, masked):
        masked.set({"0": torch.ones(2, 2, dtype=torch.bool)})
"""
    (here / "layers.py").write_text(code)
    changes = {"imports": ["layers.py"], "prune": {"methods": ["layers"]}}
    said = command("run", tiny.write(here, tiny.SMALL, changes), "--max-steps", "1", "--out", "run")
    assert said.code == 2
    assert "layers.py:16, in begin: mask: no masked weight is '0'." in said.err
