"""What a stage learns from, and what it minimises."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from robustprune import objectives
from robustprune.artifacts.reading import read_model
from robustprune.datasets.source import TensorSource
from robustprune.errors import InvalidError, UsageError
from robustprune.pipeline.plan import plan
from robustprune.recipe import inconsistencies

from . import tiny
from .steps import counted

BENIGN = {"pretrain": {"objective": {"name": "benign"}}}


def labels(share: float, *, seed: int = 0) -> list[float]:
    """Which training images a share is, each by the sum of its pixels."""
    recipe = tiny.recipe({"seed": seed})
    data = recipe.data.load(seed=recipe.seed)  # type: ignore[attr-defined]
    train = data.part(share, seed=recipe.seed).train
    assert isinstance(train, TensorSource)
    sums: list[float] = train.images.double().sum((1, 2, 3)).tolist()
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "prune", "finetune"])
def test_a_stage_learns_from_its_share_only(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(monkeypatch)
    changes = (tiny.SMALL, {stage: {"share": 0.25}})
    tiny.go(tmp_path / "run", *changes)
    usual = {"dense pretrain": 4, "hydra-0.1 prune": 4, "hydra-0.1 finetune": 4}
    assert steps == {name: 2 if stage in name else count for name, count in usual.items()}
    _, rows = plan(tiny.recipe(*changes)).steps()
    assert {f"{row[0]} {row[1]}": int(row[-1]) for row in rows[:-1]} == steps


def test_a_share_is_rounded_to_images() -> None:
    assert [len(labels(share)) for share in (1.0, 0.25, 0.02)] == [128, 32, 3]  # 2.56, rounded


def test_a_larger_share_holds_the_smaller_ones_and_the_seed_decides() -> None:
    small, large = labels(0.25), labels(0.5)
    assert set(small) < set(large) < set(labels(1.0))
    assert labels(0.25) == small
    assert labels(0.25, seed=1) != small
    assert small != labels(1.0)[:32], "not the first of the file, whose order may mean something"


def test_a_share_without_images_is_a_mistake() -> None:
    with pytest.raises(UsageError, match=r"share: 0\.01 of 128 .* fewer than two"):
        labels(0.01)


@pytest.mark.slow
def test_a_stage_s_own_objective_is_that_phase_s_alone(tmp_path: Path) -> None:
    result = tiny.go(tmp_path / "own", tiny.SMALL, BENIGN)
    objectives = [
        read_model(result.folder / name / "model.safetensors").metadata["objective"]["name"]
        for name in ("dense", "hydra-0.1")
    ]
    assert objectives == ["benign", "pgd"]
    assert result.results["params"]["pretrain"]["objective"] == {"name": "benign"}
    benign = {"objective": {"name": "benign", "eps": None, "steps": None}}
    other = tiny.go(tmp_path / "all", tiny.SMALL, benign)
    for name, same in (("dense", True), ("hydra-0.1", False)):
        one, two = (
            read_model(r.folder / name / "model.safetensors").model.state_dict()
            for r in (result, other)
        )
        assert all(torch.equal(one[key], two[key]) for key in one) is same


@pytest.mark.slow
def test_without_finetuning_a_network_s_objective_is_that_of_its_scores(tmp_path: Path) -> None:
    prune = {"objective": {"name": "trades", "eps": 0.05, "steps": 1}}
    result = tiny.go(tmp_path / "run", tiny.SMALL, {"finetune": None, "prune": prune})
    saved = read_model(result.folder / "hydra-0.1" / "model.safetensors")
    assert saved.metadata["objective"]["eps"] == 0.05


def test_a_stage_s_own_objective_is_checked_and_counted_with_the_stage() -> None:
    free = {"objective": {"name": "free", "eps": 0.1, "replays": 3}}
    recipe = tiny.recipe(tiny.SMALL, {"prune": free})
    assert [row[-1] for row in plan(recipe).steps()[1]] == ["4", "12", "4", "20"]
    wrong = tiny.recipe(tiny.SMALL, {"prune": {**free, "accumulate": 2}})
    assert [problem.place for problem in inconsistencies(wrong)] == [("prune", "accumulate")]
    with pytest.raises(InvalidError, match=r"pretrain\.objective\.epz"):
        tiny.recipe({"pretrain": {"objective": {"name": "pgd", "epz": 1}}})


@pytest.mark.slow
def test_networks_that_no_stage_minimises_by_need_not_be_there(tmp_path: Path) -> None:
    objective = {"objective": {"name": "pwoa", "eps": None, "steps": None}}  # needs the dense one
    scratch = {"prune": {"methods": ["snip"], "densities": [0.1]}, "evaluate": []}
    result = tiny.go(tmp_path / "run", objective, BENIGN, scratch, max_steps=1)
    assert [entry["name"] for entry in result.networks] == ["snip-0.1"]


def test_objectives_need_no_other_network_than_the_dense_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(objectives.get("pgd"), "needs", ("dense", "benign"))
    (problem,) = inconsistencies(tiny.recipe(tiny.SMALL, BENIGN))
    assert problem.place == ("prune", "methods", 0)
    assert "objective 'pgd' needs 'benign', which means nothing" in problem.message
    assert problem.message.endswith("may need: dense.")


@pytest.mark.slow
def test_numbers_of_a_paper_do_not_make_it_another_run(tmp_path: Path) -> None:
    tiny.go(tmp_path / "run", tiny.SMALL, max_steps=1)
    paper = {"paper": {"source": "x", "metrics": {"pgd": {"dense": 0.5}}}}
    again = tiny.go(tmp_path / "run", tiny.SMALL, paper, max_steps=1, resume=True)
    assert again.results["params"]["paper"]["metrics"] == {"pgd": {"dense": 0.5}}
