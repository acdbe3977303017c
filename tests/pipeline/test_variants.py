"""Recipes that are not like the tiny one."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from robustprune.artifacts.reading import load_model, read_model
from robustprune.errors import DivergedError
from robustprune.models.factory import Normalized

from . import tiny
from .steps import counted

pytestmark = pytest.mark.slow


DENSE = {"prune": None, "finetune": None, "evaluate": []}
SETTLED = {"objective": {"name": "benign", "eps": None, "steps": None}}
"""Changes after which nothing is drawn in training but the order of the images."""


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Optimizer steps taken, by network and stage."""
    return counted(monkeypatch)


def history(folder: Path, network: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((folder / network / "history.json").read_text())
    return entries


def test_max_steps_cuts_every_stage(tmp_path: Path, steps: Counter[str]) -> None:
    result = tiny.go(tmp_path / "run", tiny.SMALL, max_steps=3)
    assert steps == {"dense pretrain": 3, "hydra-0.1 prune": 3, "hydra-0.1 finetune": 3}
    assert [entry["epoch"] for entry in history(result.folder, "dense")] == [1, 2]
    assert result.network("hydra-0.1")["turnover"] > 0


def test_max_steps_beyond_the_end_changes_nothing(tmp_path: Path, folder: Path) -> None:
    result = tiny.go(tmp_path / "run", DENSE, max_steps=1000)
    before, now = (load_model(f / "dense" / "model.safetensors") for f in (folder, result.folder))
    assert_same(before.state_dict(), now.state_dict())


def test_without_prune_there_is_one_network(tmp_path: Path) -> None:
    result = tiny.go(tmp_path / "run", {"prune": None})
    assert [entry["name"] for entry in result.networks] == ["dense"]
    assert result.networks[0]["metrics"]["clean_n"] == 100


def test_without_finetune_networks_are_judged_as_pruned(
    tmp_path: Path, folder: Path, steps: Counter[str]
) -> None:
    result = tiny.go(tmp_path / "run", {"finetune": None, "prune": {"densities": [0.1]}})
    assert [entry["name"] for entry in result.networks] == ["dense", "hydra-0.1", "magnitude-0.1"]
    assert steps == {"dense pretrain": 4, "hydra-0.1 prune": 4}
    dense = load_model(folder / "dense" / "model.safetensors").state_dict()
    for name in ("hydra-0.1", "magnitude-0.1"):
        saved = read_model(result.folder / name / "model.safetensors")
        expected = {
            key: torch.where(saved.masks[key], value, 0) if key in saved.masks else value
            for key, value in dense.items()
        }
        assert_same(saved.model.state_dict(), expected)
    largest = read_model(result.folder / "magnitude-0.1" / "model.safetensors").masks
    for key, mask in largest.items():
        assert dense[key][mask].abs().min() >= dense[key][~mask].abs().max()


def test_finetuning_does_not_move_a_mask(tmp_path: Path, folder: Path) -> None:
    unfinished = tiny.go(tmp_path / "run", tiny.SMALL, {"finetune": None})
    before, after = (
        read_model(f / "hydra-0.1" / "model.safetensors") for f in (unfinished.folder, folder)
    )
    assert_same(before.masks, after.masks)
    weight = next(iter(before.masks))
    assert not torch.equal(before.model.state_dict()[weight], after.model.state_dict()[weight])


def test_select_best_hands_on_the_weights_of_the_lowest_validation_loss(tmp_path: Path) -> None:
    pretrain = {"schedule": {"name": "constant"}, "optimizer": {"lr": 1.0, "momentum": 0.0}}
    common = (DENSE, SETTLED, {"data": {"validation": 0.3}, "pretrain": pretrain})
    best = tiny.go(tmp_path / "best", *common, {"pretrain": {"epochs": 5, "select": "best"}})
    losses = [entry["metrics"]["val_loss"] for entry in history(best.folder, "dense")]
    epoch = losses.index(min(losses)) + 1
    assert epoch < 5, "the last epoch is the best one; the test needs another learning rate"
    until = tiny.go(tmp_path / "until", *common, {"pretrain": {"epochs": epoch}})
    dense = [load_model(r.folder / "dense" / "model.safetensors") for r in (best, until)]
    assert_same(dense[0].state_dict(), dense[1].state_dict())


def test_a_batch_in_parts_gives_nearly_the_same_network(
    tmp_path: Path, steps: Counter[str]
) -> None:
    whole, parts = (
        tiny.go(tmp_path / str(n), DENSE, SETTLED, {"pretrain": {"accumulate": n}}) for n in (1, 3)
    )
    assert steps == {"dense pretrain": 8}
    dense = [load_model(r.folder / "dense" / "model.safetensors") for r in (whole, parts)]
    for one, other in zip(*(model.state_dict().values() for model in dense), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_free_objective_steps_several_times_a_batch(
    tmp_path: Path, steps: Counter[str]
) -> None:
    free = {"name": "free", "eps": 0.1, "steps": None, "replays": 3}
    tiny.go(tmp_path / "run", tiny.SMALL, {"objective": free})
    assert steps == {"dense pretrain": 12, "hydra-0.1 prune": 12, "hydra-0.1 finetune": 12}


@pytest.mark.slow
def test_channels_last_keeps_as_many_weights_and_writes_plain_files(
    tmp_path: Path, folder: Path
) -> None:
    result = tiny.go(tmp_path / "run", tiny.SMALL, {"compute": {"channels_last": True}})
    usual = tiny.results(folder)["networks"][1]
    assert result.network("hydra-0.1")["kept"] == usual["kept"]
    saved = read_model(result.folder / "hydra-0.1" / "model.safetensors")
    assert all(tensor.is_contiguous() for tensor in saved.model.state_dict().values())
    again = tiny.go(result.folder, tiny.SMALL, {"compute": {"channels_last": True}}, resume=True)
    assert again.results == result.results


@pytest.mark.slow
def test_a_normalised_timm_model_is_judged_alike_once_it_is_saved(tmp_path: Path) -> None:
    model = {"name": "test_resnet", "mean": [0.5], "std": [0.25]}
    changes = ({"model": model}, {"prune": tiny.SMALL["prune"]})
    result = tiny.go(tmp_path / "run", *changes, max_steps=2)
    saved = read_model(result.folder / "hydra-0.1" / "model.safetensors")
    assert isinstance(saved.model, Normalized)
    assert saved.metadata["model"]["std"] == [0.25]
    (result.folder / "hydra-0.1" / "images.parquet").unlink()
    assert tiny.go(result.folder, *changes, max_steps=2, resume=True).networks == result.networks


def test_variants_of_a_method_stand_side_by_side(tmp_path: Path) -> None:
    methods = [
        {"name": "magnitude"},
        {"name": "magnitude", "label": "everywhere", "allocation": "global"},
    ]
    prune = {"methods": methods, "densities": [0.1]}
    result = tiny.go(tmp_path / "run", {"prune": prune, "finetune": None, "evaluate": []})
    assert [e["name"] for e in result.networks] == ["dense", "magnitude-0.1", "everywhere-0.1"]
    masks = [
        read_model(result.folder / e["model"]).masks["0.weight"].sum() for e in result.networks[1:]
    ]
    assert masks[0] != masks[1]


def test_a_diverging_run_says_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(
        DivergedError, match=r"dense: the loss of pretrain.*pretrain\.optimizer\.lr"
    ):
        tiny.go(tmp_path / "run", DENSE, {"pretrain": {"optimizer": {"lr": 1e8}}})


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name
