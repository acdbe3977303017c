"""A loss of one's own in one file: it is validated, trains, is logged, evaluated and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune import objectives
from robustprune.artifacts.reading import load_model, read_model

from ..pipeline import tiny
from .conftest import Command

MINE = '''
import robustprune as rp


@rp.objectives.register("my_noise")
class MyNoise(rp.Objective):
    """Cross-entropy on noisy images, plus a penalty on the logits.

    Mine.
    """

    sigma: float = 8 / 255
    """Standard deviation of the noise."""
    penalty: float = 0.1
    """Weight of the penalty."""

    def __call__(self, model, images, labels, progress):
        import torch
        from torch.nn import functional as F

        logits = model(images + self.sigma * torch.randn_like(images))
        size = logits.square().mean()
        total = F.cross_entropy(logits, labels) + self.penalty * size
        return rp.Loss(total, logits, {"size": size.detach()})
'''
CHANGES = {"imports": ["parts/mine.py"], "tracking": {"enabled": True}}


@pytest.fixture
def recipe(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe whose objective is in a file below the recipe's folder."""
    objectives.names()
    monkeypatch.setattr(objectives.registry, "_parts", dict(objectives.registry._parts))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "store")  # a plain folder is made faster than SQLite
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    (here / "recipes" / "parts").mkdir(parents=True)
    (here / "recipes" / "parts" / "mine.py").write_text(
        f"{MINE}\n# {here}"
    )  # one content is run once
    document = tiny.document(tiny.SMALL, CHANGES)
    document["objective"] = {"name": "my_noise", "sigma": "2/10"}
    return tiny.write(here / "recipes", {"objective": None}, document)


def test_it_does_everything_that_a_built_in_one_does(
    recipe: Path, command: Command, here: Path
) -> None:
    listed = command("list", "objectives", "my_", "--recipe", recipe)
    assert listed.out.startswith("my_noise: Cross-entropy on noisy images, plus a penalty")
    assert "    sigma (float) = 0.0313725: Standard deviation of the noise." in listed.out

    assert "sigma: 0.2" in command("check", recipe).out
    wrong = command("run", recipe, "--set", "objective.sigme=1")
    assert wrong.code == 2
    assert "Did you mean 'sigma'?" in wrong.err

    said = command("run", recipe, "--out", "run")
    assert (said.code, said.err) == (0, "")
    history = json.loads((here / "run" / "hydra-0.1" / "history.json").read_text())
    assert all(entry["metrics"]["size"] > 0 for entry in history)
    origin = read_model(here / "run" / "hydra-0.1" / "model.safetensors").metadata
    assert origin["objective"] == {"name": "my_noise", "sigma": 0.2, "penalty": 0.1}
    assert tracked(here) == {
        "tiny, seed 0": {"objective.name": "my_noise", "objective.sigma": "0.2"},
        "dense": {"pretrain/size"},
        "hydra-0.1": {"prune/size", "finetune/size"},
    }


def test_its_options_matter(recipe: Path, command: Command, here: Path) -> None:
    words = ("--max-steps", "2", "--quiet", "--set", "tracking.enabled=false")
    for out, penalty in (("with", 1), ("without", 0)):
        assert (
            command(
                "run", recipe, "--out", out, *words, "--set", f"objective.penalty={penalty}"
            ).code
            == 0
        )
    weights = [
        load_model(here / out / "dense" / "model.safetensors").state_dict()["0.weight"]
        for out in ("with", "without")
    ]
    assert not torch.equal(*weights)


def tracked(here: Path) -> dict[str, Any]:
    """What MLflow knows of the loss: parameters of the parent, curves of the children."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=str(here / "store"))
    experiment = client.get_experiment_by_name("robustprune")
    found: dict[str, Any] = {}
    for run in client.search_runs([experiment.experiment_id]):
        keys = ("objective.name", "objective.sigma")
        params = {key: run.data.params[key] for key in keys if key in run.data.params}
        curves = {key for key in run.data.metrics if key.endswith("/size")}
        found[run.info.run_name] = params or curves
    return found


def test_the_run_keeps_the_file_and_can_be_repeated_without_the_original(
    recipe: Path, command: Command, here: Path
) -> None:
    words = ("--max-steps", "1", "--quiet", "--set", "tracking.enabled=false")
    assert command("run", recipe, "--out", "first", *words).code == 0
    kept = here / "first" / "imports" / "mine.py"
    assert kept.read_text() == (recipe.parent / "parts" / "mine.py").read_text()
    (recipe.parent / "parts" / "mine.py").unlink()
    assert command("run", "first/recipe.yaml", "--out", "again", *words).code == 0
    first, again = (here / out / "dense" / "model.safetensors" for out in ("first", "again"))
    assert first.read_bytes() == again.read_bytes()
