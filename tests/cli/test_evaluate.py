from __future__ import annotations

import json
from pathlib import Path

import pytest

from robustprune import evaluators
from robustprune.cli.evaluate_command import evaluator_document
from robustprune.errors import UsageError
from robustprune.pipeline import RunResult

from .conftest import Command


@pytest.mark.parametrize("name", ["dense", "hydra-0.1"])
def test_it_says_what_the_run_said(
    name: str, command: Command, here: Path, small: RunResult
) -> None:
    path = small.folder / name / "model.safetensors"
    said = command("evaluate", path, "--json", "found/metrics.json")
    assert (said.code, said.err) == (0, "")
    metrics = small.network(name)["metrics"]
    found = json.loads((here / "found" / "metrics.json").read_text())
    assert found == {"model": str(path), "metrics": metrics}
    (row,) = (line.split() for line in said.out.splitlines() if line.startswith(" pgd "))
    assert row[:3] == ["pgd", "%", f"{100 * metrics['pgd']:.1f}"]
    assert row[-1] == "64"


def test_evaluators_and_samples_can_be_chosen(
    command: Command, here: Path, small: RunResult
) -> None:
    path = small.folder / "dense" / "model.safetensors"
    chosen = ["--evaluator", "clean", "--evaluator", "pgd:eps=1/255,steps=2,label=weak"]
    said = command("evaluate", path, *chosen, "--samples", "20", "--json", "metrics.json")
    assert said.code == 0
    metrics = json.loads((here / "metrics.json").read_text())["metrics"]
    assert (metrics["clean_n"], metrics["weak_n"]) == (20, 20)
    assert "pgd" not in metrics


def test_an_evaluator_is_written_in_one_word() -> None:
    assert evaluator_document("clean") == {"name": "clean"}
    assert evaluator_document("pgd: eps = 8/255 ,steps=20,") == {
        "name": "pgd",
        "eps": "8/255",
        "steps": "20",
    }
    with pytest.raises(UsageError, match="'eps' has no ="):
        evaluator_document("pgd:eps")


OWN = '''
import robustprune as rp


@rp.evaluators.register("always_right")
class AlwaysRight(rp.Evaluator):
    """Counts every image."""

    def judge(self, model, images, labels, *, seed):
        return {self.metric: labels == labels}
'''


def test_parts_of_ones_own_come_from_the_imports_of_a_recipe(
    command: Command, here: Path, small: RunResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluators.names()
    monkeypatch.setattr(evaluators.registry, "_parts", dict(evaluators.registry._parts))
    (here / "own.py").write_text(OWN)
    (here / "mine.yaml").write_text("imports: [own.py]\n")
    words = [
        "evaluate",
        small.folder / "dense" / "model.safetensors",
        "--evaluator",
        "always_right",
    ]
    assert command(*words).code == 2
    said = command(*words, "--recipe", "mine.yaml")
    assert said.code == 0
    assert "always_right" in said.out
    assert "100.0" in said.out
