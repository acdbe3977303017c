"""Errors in a file of the user's own: its line is named, and how to go on."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from robustprune import datasets, evaluators, objectives
from robustprune.training import optimizers, schedules

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
    """Mine."""

    def model_post_init(self, context):
        pass  # construct

    def __call__(self, model, images, labels, progress):
        logits = model(images)
        total = F.cross_entropy(logits, labels)
        parts = {}
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
HELPER = "def boom():\n    raise LookupError('in the helper')\n"
CHANGES = {
    "imports": ["mine.py"],
    "objective": {"name": "mine"},
    "prune": None,
    "finetune": None,
    "pretrain": {
        "schedule": {"name": "my_schedule"},
        "optimizer": {"name": "my_optimizer", "lr": 0.1},
    },
    "evaluate": [{"name": "my_evaluator", "samples": 8}],
}


@pytest.fixture(autouse=True)
def families(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """What a test registers is gone after it."""
    for family in (objectives, schedules, optimizers, evaluators, datasets):
        family.names()
        monkeypatch.setattr(family.registry, "_parts", dict(family.registry._parts))
    (here / "helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(here)
    monkeypatch.delitem(sys.modules, "helper", raising=False)


def write(here: Path, place: str, code: str) -> tuple[Path, int]:
    """The recipe, with code in place of a line that says so; and that line's number."""
    lines = [*OWN.splitlines(), f"# {here}"]  # one content is run once
    (number,) = [n for n, line in enumerate(lines) if line.endswith(f"# {place}")] or [0]
    indent = len(lines[number]) - len(lines[number].lstrip())
    lines[number] = " " * indent + code if number else lines[number]
    (here / "mine.py").write_text("\n".join(lines))
    dropped = {"objective": None, "pretrain": {"optimizer": None}}
    return tiny.write(here, dropped, CHANGES), number + 1


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("loop", "1 / 0", "in __call__: ZeroDivisionError: division by zero\n  1 / 0"),
        ("loop", "model(images[:, 0])", "in __call__: RuntimeError: "),
        ("loop", "assert images.sum() < 0, 'my claim'", "in __call__: AssertionError: my claim"),
        ("judge", "{}['x']", "in judge: KeyError: 'x'"),
        ("summarise", "raise RuntimeError", "in summarise: RuntimeError"),
        ("schedule", "return progress.nothing", "in __call__: AttributeError: "),
        ("optimizer", "return torch.optim.Nothing()", "in build: AttributeError: "),
    ],
)
def test_its_line_is_named_and_how_to_go_on(
    place: str, code: str, words: str, command: Command, here: Path
) -> None:
    recipe, line = write(here, place, code)
    said = command("run", recipe, "--quiet")
    assert said.code == 2
    assert f"error: {here / 'mine.py'}:{line}, {words}" in said.err
    assert "Traceback" not in said.err
    assert "fault of robustprune" not in said.err
    begun = place != "optimizer"  # which is asked for the room that it needs before that
    assert ("Mend the file, and go on with: robustprune run " in said.err) == begun


def test_an_error_of_a_file_beside_it_counts_too(command: Command, here: Path) -> None:
    recipe, _ = write(here, "judge", "boom()")
    said = command("run", recipe, "--quiet")
    assert said.code == 2
    assert f"{here / 'helper.py'}:2, in boom: LookupError: in the helper" in said.err


def test_an_error_at_construction_has_nothing_to_go_on_with(command: Command, here: Path) -> None:
    recipe, line = write(here, "construct", "{}['x']")
    for typed in (("run", recipe), ("check", recipe)):
        said = command(*typed)
        assert said.code == 2
        assert f"error: {here / 'mine.py'}:{line}, in model_post_init: KeyError: 'x'" in said.err
        assert "--resume" not in said.err


@pytest.mark.parametrize(
    ("place", "code", "words"),
    [
        ("loop", "return total", "objective 'mine' must give Loss(total, logits, parts)"),
        ("loop", "total = total.expand(3)", "got total torch.Size([3])"),
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
def test_a_part_that_gives_something_else_is_named(
    place: str, code: str, words: str, command: Command, here: Path
) -> None:
    recipe, _ = write(here, place, code)
    said = command("run", recipe, "--quiet")
    assert said.code == 2
    assert said.err.startswith(f"error: {here / 'mine.py'}:")
    assert words in said.err
    assert "Traceback" not in said.err


def test_a_part_that_lacks_a_method_is_named(command: Command, here: Path) -> None:
    recipe, _ = write(here, "nowhere", "")
    said = command("check", recipe, "--set", "data={name: my_data}")
    assert said.code == 2
    assert f"error: {here / 'mine.py'}:" in said.err
    assert "in MyData: Can't instantiate abstract class MyData" in said.err


def test_in_a_report_it_costs_the_page_and_not_the_run(
    command: Command, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, _ = write(here, "judge", "pass")
    text = (here / "mine.py").read_text()
    claim = "    @property\n    def claims(self):\n        import sys\n"
    claim += (
        "        if 'matplotlib.figure' in sys.modules and 'report' in str(sys._getframe(1)):\n"
    )
    claim += "            raise KeyError('claims')\n\n    def judge("
    (here / "mine.py").write_text(text.replace("    def judge(", claim))
    said = command("run", recipe, "--quiet", "--set", "tracking.enabled=true")
    assert said.code == 0
    assert f"the report was not written: {here / 'mine.py'}:" in said.err
    assert "KeyError: 'claims'" in said.err
    assert "write it with: robustprune report " in said.err


def test_a_run_that_goes_on_keeps_the_mended_file(command: Command, here: Path) -> None:
    recipe, _ = write(here, "judge", "1 / 0")
    said = command("run", recipe, "--quiet", "--out", "run")
    line = shlex.split(said.err.partition("go on with: ")[2])
    assert line[-1] == "--resume"
    (here / "run" / "imports" / "mine.py").write_text("")
    command(*line[1:])  # this process knows the file as it was
    assert (here / "run" / "imports" / "mine.py").read_text() == (here / "mine.py").read_text()
